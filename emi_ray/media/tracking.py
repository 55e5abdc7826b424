"""Track one face through a clip: that of the person who is largest and longest in view.

Full frames are not kept. Faces are detected at a fixed rate; in between, a known face is followed by its
appearance. Each track keeps only *patches*: the surroundings of the face, shrunk so that the crop that is later cut
from them has about the wanted size. A cut ends all tracks. Tracks whose faces look alike are one person. At the end
of the clip the best person is chosen, gaps are interpolated, boxes are smoothed, and crops are cut from the
patches.
"""

from collections import deque
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from emi_ray.config import FaceSettings
from emi_ray.media.boxes import (
    PATCH_SLACK,
    UPRIGHT_SLACK,
    Patch,
    cut_patch,
    interpolate,
    link,
    run_starts,
    square_side,
    steady,
)
from emi_ray.media.clip import Faces
from emi_ray.media.detection import FaceFinder
from emi_ray.media.face_matching import ALIKE, Look, View, follow, likeness

MAX_GAP_S = 1.0
"""The longest gap between two sightings of a face that is interpolated, and the longest time that a face is followed
without being detected (or the interval of detection, if that is longer)."""
MAX_LOOKED_BACK = 6
"""Number of frames since the last search that are kept, to trace a newly detected face back."""
MAX_TRACKS = 4
"""Maximum number of tracks at a time, and of people of earlier shots. The weakest are dropped."""
CUT = 8.0
"""Threshold of a cut: mean difference of two successive frames, shrunk to 32 × 18 grey pixels of 0 to 255. Within
the clips of speakers used for tests it is below 1.6, between two of them at least 11.6."""


@dataclass(frozen=True)
class Sighting:
    """One frame of a track.

    Attributes:
        box: None if the face was not found; it may be interpolated.
        is_detected: whether a detector found the face, so that the size of the box is known.
    """

    frame: int
    box: np.ndarray | None
    patch: Patch
    is_detected: bool = False


@dataclass
class Track:
    """Sightings of one face, in order of time.

    Attributes:
        looks: the appearance at the first and the last detection.
        joints: indices of sightings at which a later track of the same person begins.
        score: sum of the areas of all boxes.
    """

    looks: list[Look]
    last_box: np.ndarray
    last_frame: int = -1
    last_seen_s: float = 0.0
    last_detected_s: float = 0.0
    score: float = 0.0
    sightings: list[Sighting] = field(default_factory=list)
    joints: list[int] = field(default_factory=list)
    _doubted_from: int | None = None

    def detected(self, sighting: Sighting, time_s: float, box: np.ndarray, look: Look) -> None:
        """Add a frame in which a detector found the face."""
        sighting = replace(sighting, is_detected=True)
        if time_s - self.last_seen_s > MAX_GAP_S:
            self.forget_guesses()
        self._doubted_from = None
        self.looks = [self.looks[0], look]
        self.last_detected_s = time_s
        self.followed(sighting, time_s, box)

    def followed(self, sighting: Sighting, time_s: float, box: np.ndarray) -> None:
        """Add a frame in which the face was found by its appearance."""
        self.sightings.append(sighting)
        self.last_box, self.last_frame, self.last_seen_s = box, sighting.frame, time_s
        self.score += float(box[2] * box[3])

    def lost(self, sighting: Sighting) -> None:
        self.sightings.append(sighting)

    def doubt(self) -> None:
        """Note that a search did not find the face. Later sightings count only if a further search finds it."""
        if self._doubted_from is None:
            self._doubted_from = len(self.sightings)

    def forget_guesses(self) -> None:
        """Drop the sightings since the last confirmed one."""
        for doubtful in self.sightings[self._doubted_from or len(self.sightings) :]:
            if doubtful.box is not None:
                self.score -= float(doubtful.box[2] * doubtful.box[3])
        self.sightings = self.sightings[: self._doubted_from]
        self._doubted_from = None
        while self.sightings and self.sightings[-1].box is None:
            self.sightings.pop()

    def is_same_person(self, later: "Track") -> bool:
        """Return whether a track that starts after the end of this one shows a face that looks alike."""
        return self.sightings[-1].frame < later.sightings[0].frame and any(
            likeness(mine, other) >= ALIKE for mine in self.looks for other in later.looks
        )

    def join(self, later: "Track") -> None:
        """Append the sightings of a later track of the same person."""
        self.joints.append(len(self.sightings))
        self.sightings += later.sightings
        self.score += later.score
        self.looks[-1] = later.looks[-1]


class FaceTracker:
    """Processes the sampled frames of a clip one by one; :meth:`finish` returns the face.

    A track's score is the sum of its boxes' areas over the frames with the face, that is mean area × presence: a
    large face that is always present wins over a larger passer-by and over a small constant one.
    """

    def __init__(self, finder: FaceFinder, settings: FaceSettings) -> None:
        self._finder = finder
        self._settings = settings
        self._tracks: list[Track] = []
        self._people: list[Track] = []
        self._times_s: list[float] = []
        self._frame_size = (1, 1)
        self._thumbnail: np.ndarray | None = None
        self._last_search_s = -np.inf
        self._since_search: deque[tuple[int, View]] = deque(maxlen=MAX_LOOKED_BACK)
        self._trust_s = max(MAX_GAP_S, 1 / settings.detection_rate_hz)
        self.num_frames_of_others = 0

    @property
    def num_frames(self) -> int:
        return len(self._times_s)

    def see(self, image: np.ndarray, time_s: float) -> None:
        """Process one frame (H, W, 3) uint8 RGB. All frames of a clip have the same size."""
        frame = len(self._times_s)
        self._times_s.append(time_s)
        self._frame_size = (image.shape[1], image.shape[0])
        view = self._finder.view(image)
        if self._is_cut(view):
            self._end_shot()
        followed = self._follow(view, frame)
        if self._is_search_due(followed, time_s):
            self._search(view, frame, followed)
            return
        self._since_search.append((frame, view))
        for index, box in followed.items():
            self._tracks[index].followed(self._sighting(frame, box, view), time_s, box)

    def finish(self) -> Faces | None:
        """Return the crops of the best person's face, or None if no frame had a face."""
        self._end_shot()
        if not self._people:
            return None
        person = max(self._people, key=lambda track: track.score)
        seen = {sighting.frame for sighting in person.sightings}
        others = {sighting.frame for track in self._people for sighting in track.sightings} - seen
        self.num_frames_of_others = len(others)
        frames = np.array([sighting.frame for sighting in person.sightings])
        detected = np.array([sighting.box is not None for sighting in person.sightings])
        known = np.stack([sighting.box for sighting in person.sightings if sighting.box is not None])
        times_s = np.array(self._times_s)[frames]
        boxes = interpolate(times_s, detected, known)
        by_detector = np.array([sighting.is_detected for sighting in person.sightings])
        starts = run_starts(frames, times_s, self._trust_s, person.joints)
        boxes = steady(boxes, times_s, by_detector, starts)
        margin, size_px = self._settings.margin, self._settings.size_px
        crops = np.empty((len(boxes), size_px, size_px, 3), np.uint8)
        for index, sighting in enumerate(person.sightings):
            turn = float(boxes[index, 4]) if self._settings.upright else 0.0
            crops[index] = sighting.patch.crop(boxes[index], margin, size_px, turn)
        shares = boxes[:, :4] / np.array(self._frame_size * 2)
        return Faces(crops, shares.astype(np.float32), times_s.astype(np.float32), detected, starts)

    def _is_cut(self, view: View) -> bool:
        before = self._thumbnail
        self._thumbnail = cv2.resize(view.grey, (32, 18), interpolation=cv2.INTER_AREA).astype(np.int16)
        return before is not None and float(np.abs(self._thumbnail - before).mean()) > CUT

    def _follow(self, view: View, frame: int) -> dict[int, np.ndarray]:
        """Follow the tracks that were seen in the last frame and detected recently.

        Returns the boxes of those found again.
        """
        found = {}
        for index, track in enumerate(self._tracks):
            since_s = self._times_s[frame] - track.last_detected_s
            if track.last_frame == frame - 1 and since_s <= self._trust_s:
                box = follow(track.looks[-1], view, track.last_box)
                if box is not None:
                    found[index] = box
        return found

    def _is_search_due(self, followed: dict[int, np.ndarray], time_s: float) -> bool:
        live = [i for i, track in enumerate(self._tracks) if time_s - track.last_seen_s <= MAX_GAP_S]
        if any(index not in followed for index in live):
            return True
        return time_s - self._last_search_s >= 1 / self._settings.detection_rate_hz - 1e-3

    def _search(self, view: View, frame: int, followed: dict[int, np.ndarray]) -> None:
        """Detect faces in the whole frame: continue known tracks, and begin new ones."""
        time_s = self._times_s[frame]
        boxes = self._finder.survey(view)
        linked = link([track.last_box for track in self._tracks], boxes)
        for index, track in enumerate(self._tracks):
            if index in linked:
                box = boxes[linked[index]]
                look = Look.of(view, box)
                if time_s - track.last_seen_s > MAX_GAP_S:
                    track.forget_guesses()
                    self._follow_back(track, look, box)
                track.detected(self._sighting(frame, box, view), time_s, box, look)
                continue
            track.doubt()
            if index in followed:
                track.followed(self._sighting(frame, followed[index], view), time_s, followed[index])
            elif time_s - track.last_seen_s <= MAX_GAP_S:
                track.lost(Sighting(frame, None, self._patch(track.last_box, view)))
            else:
                track.forget_guesses()
        for index in sorted(set(range(len(boxes))) - set(linked.values())):
            self._begin(view, frame, boxes[index])
        self._last_search_s = time_s
        self._since_search.clear()
        self._drop_weak_tracks(time_s)

    def _begin(self, view: View, frame: int, box: np.ndarray) -> None:
        """Begin a new track."""
        look, time_s = Look.of(view, box), self._times_s[frame]
        track = Track([look, look], box, last_seen_s=time_s)
        self._follow_back(track, look, box)
        track.detected(self._sighting(frame, box, view), time_s, box, look)
        self._tracks.append(track)

    def _follow_back(self, track: Track, look: Look, box: np.ndarray) -> None:
        """Trace a newly found face back through the frames since the last search, but not across a gap in time."""
        earlier = []
        for frame, view in reversed(self._since_search):
            is_recent = self._times_s[-1] - self._times_s[frame] <= self._trust_s
            found = follow(look, view, box) if is_recent and frame > track.last_frame else None
            if found is None:
                break
            box = found
            earlier.append((frame, view, box))
        for frame, view, box in reversed(earlier):
            track.followed(self._sighting(frame, box, view), self._times_s[frame], box)

    def _drop_weak_tracks(self, time_s: float) -> None:
        """Keep the best tracks that may continue and the best one that has ended; turn the other ended ones into
        people.
        """
        ranked = sorted(self._tracks, key=lambda track: track.score, reverse=True)
        live = [track for track in ranked if time_s - track.last_seen_s <= MAX_GAP_S][:MAX_TRACKS]
        ended = [track for track in ranked if time_s - track.last_seen_s > MAX_GAP_S]
        self._tracks = sorted(live + ended[:1], key=lambda track: track.score, reverse=True)
        for track in ended[1:]:
            self._remember(track)

    def _end_shot(self) -> None:
        """End all tracks, because of a cut or the end of the clip."""
        for track in sorted(self._tracks, key=lambda track: track.sightings[0].frame):
            self._remember(track)
        self._tracks = []
        self._since_search.clear()
        self._last_search_s = -np.inf

    def _remember(self, track: Track) -> None:
        """Add an ended track to the person that it shows."""
        track.forget_guesses()
        same = [person for person in self._people if person.is_same_person(track)]
        if same:
            max(same, key=lambda person: person.score).join(track)
        else:
            self._people.append(track)
        self._people = sorted(self._people, key=lambda person: person.score, reverse=True)[:MAX_TRACKS]

    def _sighting(self, frame: int, box: np.ndarray, view: View) -> Sighting:
        return Sighting(frame, box, self._patch(box, view))

    def _patch(self, box: np.ndarray, view: View) -> Patch:
        slack = UPRIGHT_SLACK if self._settings.upright else PATCH_SLACK
        side = square_side(box, self._settings.margin)
        return cut_patch(view.image, box, side, slack, self._settings.size_px)
