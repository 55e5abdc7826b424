"""One face followed through a clip: the largest and steadiest.

Full frames never pile up. Each is searched when it comes, and of every live track only a *patch* is kept:
the face's surroundings, shrunk so that the crop that is later cut from it has about the wanted size. Once the
clip is over the best track is chosen, its gaps are filled, its boxes smoothed, and the crops cut from its
patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from emi_ray.config import FaceSettings
from emi_ray.media.clip import Faces
from emi_ray.media.detection import FaceFinder, iou
from emi_ray.media.scaling import rescale

MIN_IOU = 0.2
"""Overlap of two boxes in successive sightings that makes them the same face."""
MAX_GAP_S = 1.0
"""The longest time between two sightings of a face that is bridged by interpolation."""
SURVEY_EVERY = 6
"""Every so many frames all of the frame is searched, in between only around known faces."""
MAX_TRACKS = 4
"""Tracks kept at a time; the weakest goes first."""
PATCH_SLACK = 1.3
"""Side of a patch, in sides of the crop to be cut from it: room for smoothing and interpolation."""
SMOOTHING = np.array([1, 4, 6, 4, 1]) / 16
"""Binomial weights of five successive boxes."""


@dataclass(frozen=True)
class Patch:
    """The part of a frame that starts at pixel ``corner`` (x, y), ``scale`` (x, y) times as large."""

    pixels: np.ndarray
    corner: np.ndarray
    scale: np.ndarray

    def crop(self, box: np.ndarray, margin: float, size_px: int) -> np.ndarray:
        """The square around ``box`` (x, y, width, height, in frame pixels), (size_px, size_px, 3)."""
        side = square_side(box, margin)
        zoom = size_px / (side * self.scale)
        start = (box[:2] + box[2:] / 2 - side / 2 - self.corner) * self.scale
        # Pixel centres lie at halves: that of the crop's first pixel is half a pixel from its edge.
        shift = 0.5 * zoom - 0.5 - start * zoom
        matrix = np.array([[zoom[0], 0, shift[0]], [0, zoom[1], shift[1]]])
        return cv2.warpAffine(
            self.pixels, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )


@dataclass(frozen=True)
class Sighting:
    """One frame of a track. ``box`` is None where the face was not found and may be interpolated."""

    frame: int
    box: np.ndarray | None
    patch: Patch


@dataclass
class Track:
    """Sightings of one face, oldest first; the first has a box."""

    sightings: list[Sighting] = field(default_factory=list)
    last_box: np.ndarray = field(default_factory=lambda: np.zeros(4, np.float32))
    last_frame: int = 0
    last_seen_s: float = 0.0
    score: float = 0.0

    def found(self, frame: int, time_s: float, box: np.ndarray, patch: Patch) -> None:
        if time_s - self.last_seen_s > MAX_GAP_S:
            self.forget_guesses()
        self.sightings.append(Sighting(frame, box, patch))
        self.last_box, self.last_frame, self.last_seen_s = box, frame, time_s
        self.score += float(box[2] * box[3])

    def lost(self, frame: int, patch: Patch) -> None:
        self.sightings.append(Sighting(frame, None, patch))

    def forget_guesses(self) -> None:
        """Drop what was carried along since the face was last found."""
        while self.sightings and self.sightings[-1].box is None:
            self.sightings.pop()


class FaceTracker:
    """Takes the sampled frames of a clip one by one; :meth:`finish` gives the face.

    A track's score is the sum of its boxes' areas over the frames where it was found, that is mean area ×
    presence: a large face seen throughout wins over a larger passer-by and over a small steady one.
    """

    def __init__(self, finder: FaceFinder, settings: FaceSettings) -> None:
        self._finder = finder
        self._settings = settings
        self._tracks: list[Track] = []
        self._times_s: list[float] = []
        self._frame_size = (1, 1)

    def see(self, image: np.ndarray, time_s: float) -> None:
        """Search one frame (H, W, 3) uint8 RGB. All frames of a clip have the same size."""
        frame = len(self._times_s)
        self._times_s.append(time_s)
        self._frame_size = (image.shape[1], image.shape[0])
        boxes = self._search(image, frame)
        linked = link([track.last_box for track in self._tracks], boxes)
        for index, track in enumerate(self._tracks):
            if index in linked:
                box = boxes[linked[index]]
                track.found(frame, time_s, box, self._patch(image, box))
            elif time_s - track.last_seen_s <= MAX_GAP_S:
                track.lost(frame, self._patch(image, track.last_box))
            else:
                track.forget_guesses()
        for index in sorted(set(range(len(boxes))) - set(linked.values())):
            track = Track(last_seen_s=time_s)
            track.found(frame, time_s, boxes[index], self._patch(image, boxes[index]))
            self._tracks.append(track)
        self._tracks = self._worth_keeping(time_s)

    def _worth_keeping(self, time_s: float) -> list[Track]:
        """The best tracks that may go on, and the best that has ended: an ended one never crowds out a new face."""
        ranked = sorted(self._tracks, key=lambda track: track.score, reverse=True)
        live = [track for track in ranked if time_s - track.last_seen_s <= MAX_GAP_S][:MAX_TRACKS]
        ended = [track for track in ranked if time_s - track.last_seen_s > MAX_GAP_S][:1]
        return sorted(live + ended, key=lambda track: track.score, reverse=True)

    @property
    def num_frames(self) -> int:
        return len(self._times_s)

    def finish(self) -> Faces | None:
        """The best track as crops, or None if no frame had a face."""
        if not self._tracks:
            return None
        track = self._tracks[0]
        track.forget_guesses()
        frames = np.array([sighting.frame for sighting in track.sightings])
        detected = np.array([sighting.box is not None for sighting in track.sightings])
        known = np.stack([sighting.box for sighting in track.sightings if sighting.box is not None])
        times_s = np.array(self._times_s)[frames]
        boxes = smooth(interpolate(times_s, detected, known), frames)
        margin, size_px = self._settings.margin, self._settings.size_px
        crops = np.empty((len(boxes), size_px, size_px, 3), np.uint8)
        for index, sighting in enumerate(track.sightings):
            crops[index] = sighting.patch.crop(boxes[index], margin, size_px)
        shares = boxes / np.array(self._frame_size * 2)
        return Faces(crops, shares.astype(np.float32), times_s.astype(np.float32), detected)

    def _search(self, image: np.ndarray, frame: int) -> np.ndarray:
        """Boxes (N, 4): of the faces that were there a frame ago if all are still, else of all faces."""
        known = [track.last_box for track in self._tracks if track.last_frame == frame - 1]
        if known and frame % SURVEY_EVERY:
            found = [box for near in known if (box := self._finder.near(image, near)) is not None]
            if len(found) == len(known):
                return np.stack(found)
        return self._finder.survey(image)

    def _patch(self, image: np.ndarray, box: np.ndarray) -> Patch:
        crop_side = square_side(box, self._settings.margin)
        half = crop_side * PATCH_SLACK / 2
        centre = box[:2] + box[2:] / 2
        left, top = np.maximum(centre - half, 0).astype(int)
        right, bottom = (centre + half).astype(int) + 1
        region = image[top:bottom, left:right]
        pixels = rescale(region, min(1.0, self._settings.size_px / crop_side))
        scale = np.array(pixels.shape[1::-1]) / region.shape[1::-1]
        return Patch(pixels.copy() if pixels is region else pixels, np.array([left, top]), scale)


def square_side(box: np.ndarray, margin: float) -> float:
    """Side of the square crop around a box, with the margin added on each side."""
    return float(max(box[2], box[3])) * (1 + 2 * margin)


def link(known: Sequence[np.ndarray], boxes: np.ndarray) -> dict[int, int]:
    """Which of ``boxes`` (N, 4) continues which of ``known``: greedily, largest overlap first."""
    overlaps = [
        (overlap, index, candidate)
        for index, box in enumerate(known)
        for candidate, other in enumerate(boxes)
        if (overlap := iou(box, other)) >= MIN_IOU
    ]
    linked: dict[int, int] = {}
    for _, index, candidate in sorted(overlaps, reverse=True):
        if index not in linked and candidate not in linked.values():
            linked[index] = candidate
    return linked


def interpolate(times_s: np.ndarray, detected: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Boxes (T, 4) for all times, linear in time between the ``known`` ones at ``times_s[detected]``."""
    return np.stack([np.interp(times_s, times_s[detected], column) for column in known.T], axis=1)


def smooth(boxes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Boxes (T, 4) smoothed over successive ``frames``, never across a gap."""
    reach = len(SMOOTHING) // 2
    runs = np.split(boxes, np.flatnonzero(np.diff(frames) > 1) + 1)
    padded = [np.pad(run, ((reach, reach), (0, 0)), "edge") for run in runs]
    return np.concatenate(
        [np.stack([np.convolve(column, SMOOTHING, "valid") for column in run.T], axis=1) for run in padded]
    )
