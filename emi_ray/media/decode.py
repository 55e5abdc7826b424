"""Decode a clip's files to frames, faces and waveform. A fault of a clip becomes a reason, not an exception."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from emi_ray.config import DecoderName, MediaSettings
from emi_ray.media.clip import DecodedClip, Faces, Frames, Waveform
from emi_ray.media.containers import explain
from emi_ray.media.faces import read_ready_crops
from emi_ray.media.sinks import FaceSearcher, FrameCollector, FrameConsumer, VideoSink
from emi_ray.media.sound import AudioSink
from emi_ray.media.source import ClipSource, UnreadableError, open_media, read_text
from emi_ray.media.streams import DECODING_ERRORS, FileNotes, MediaKind, StreamSink, read_streams
from emi_ray.schema import Need

Decoder = Callable[[BinaryIO, Sequence[StreamSink[Any]], Collection[MediaKind]], FileNotes]
"""Reads one file once, and passes the frames of its streams to sinks; see :func:`read_streams`."""

_SOUND: tuple[MediaKind, ...] = ("audio",)
_PICTURES: tuple[MediaKind, ...] = ("video",)

DECODERS: Mapping[DecoderName, Decoder] = {"ffmpeg": read_streams}
"""Decoders by their name in ``media.decoder``."""


def decode_clip(source: ClipSource, media: MediaSettings, needs: frozenset[Need]) -> DecodedClip:
    """Decode the inputs in ``needs``. Each file is read once.

    Raises:
        UserError: the face detector that ``media`` asks for is not available. Faults of the clip raise nothing.
        StorageError: the storage cannot be reached.
    """
    decoding = _Decoding(source, media, needs)
    decoding.run()
    return DecodedClip(
        source.clip_id,
        frames=decoding.frames,
        faces=decoding.faces,
        waveform=decoding.waveform,
        transcript=decoding.transcript,
        openface_csv=decoding.openface_csv,
        video=decoding.video,
        missing=decoding.missing,
        failed=decoding.failed,
        notes=decoding.notes,
    )


@dataclass
class _Decoding:
    """The state of decoding one clip."""

    source: ClipSource
    media: MediaSettings
    needs: frozenset[Need]
    frames: Frames | None = None
    faces: Faces | None = None
    waveform: Waveform | None = None
    transcript: str | None = None
    openface_csv: str | None = None
    video: str | None = None
    missing: dict[Need, str] = field(default_factory=dict)
    failed: dict[Need, str] = field(default_factory=dict)
    notes: dict[str, int | str] = field(default_factory=dict)

    def run(self) -> None:
        if "transcript" in self.needs:
            self._take_transcript()
        if "openface_csv" in self.needs:
            self._read_openface_csv()
        if "video" in self.needs:
            self._name_video()
        # Ready face crops replace the search for faces in the video, but whole frames still need it.
        from_video = self.needs & {"frames", "faces"}
        if "faces" in self.needs and self.source.faces_dir is not None:
            self._read_faces_dir(self.source.faces_dir)
            from_video -= {"faces"}
        sound = self.needs & {"waveform"}
        # A file that has both sound and pictures is read once, and both have the same time zero.
        if self.source.audio in (None, self.source.video):
            self._read_media(self.source.video, from_video | sound, _SOUND + _PICTURES)
        else:
            # Two files have separate time axes; each starts at its own first stream.
            self._read_media(self.source.audio, sound, _SOUND)
            self._read_media(self.source.video, from_video, _PICTURES)

    def _take_transcript(self) -> None:
        text = self.source.transcript
        self.transcript = text if text and text.strip() else None
        if self.transcript is None:
            self.missing["transcript"] = (
                "no transcript is given" if text is None else "the transcript is empty"
            )

    def _name_video(self) -> None:
        self.video = self.source.video if isinstance(self.source.video, str) else None
        if self.video is None:
            self.missing["video"] = "no video file is given"

    def _read_openface_csv(self) -> None:
        if self.source.openface_csv is None:
            self.missing["openface_csv"] = "no OpenFace CSV is given"
            return
        try:
            self.openface_csv = read_text(self.source.openface_csv)
        except UnreadableError as error:
            self.failed["openface_csv"] = str(error)

    def _read_faces_dir(self, faces_dir: str) -> None:
        faces = self.media.faces
        try:
            self.faces, counts = read_ready_crops(faces_dir, faces.size_px, self.media.max_frames)
        except UnreadableError as error:
            self.failed["faces"] = str(error)
            return
        self._count(counts)
        if self.faces is None and counts["images_unreadable"]:
            self.failed["faces"] = (
                f"none of {counts['images_unreadable']} face images can be read: {faces_dir}"
            )
        elif self.faces is None:
            self.missing["faces"] = f"the folder of face images is empty: {faces_dir}"

    def _read_media(
        self, file: str | bytes | None, needs: frozenset[Need], serving: Collection[MediaKind]
    ) -> None:
        """Read one media file. Each of ``needs`` ends as a result, in ``missing`` or in ``failed``."""
        if not needs:
            return
        if file is None:
            self.missing |= dict.fromkeys(sorted(needs), "the clip has no media file")
            return
        sinks, notes = _Sinks(self.media, needs), FileNotes(0.0, 0)
        try:
            with open_media(file) as stream:
                notes = DECODERS[self.media.decoder](stream, sinks.all, serving)
            self._take_sound(sinks, notes)
            self._take_pictures(sinks, notes)
        except UnreadableError as error:
            self._fail(needs, str(error))
            return
        except DECODING_ERRORS as error:
            self._fail(needs, f"decoding failed ({type(error).__name__}: {explain(error)})")
        self._count(
            {
                "packets_corrupt": sum(sink.packets_corrupt for sink in sinks.all),
                "truncated": int(any(sink.truncated for sink in sinks.all)),
                "timestamps_jumped": notes.num_jumps,
                **{f"{sink.KIND}_choice": sink.said for sink in sinks.all},
            }
        )

    def _take_sound(self, sinks: "_Sinks", file: FileNotes) -> None:
        sound = sinks.sound
        if sound is None:
            return
        self.waveform = sound.finish()
        self._conclude("waveform", sound, self.waveform is not None)
        self._count(sound.notes)
        if sound.notes.get("sound_capped"):
            self.notes["sound_read"] = _share_read(sound.end_s, file.declared_s)

    def _take_pictures(self, sinks: "_Sinks", file: FileNotes) -> None:
        picture = sinks.picture
        if sinks.collector:
            self.frames = sinks.collector.finish()
            self._conclude("frames", picture, self.frames is not None)
        if sinks.searcher:
            num_frames = sinks.searcher.num_frames
            self.faces = sinks.searcher.finish()
            self._conclude("faces", picture, num_frames > 0)
            self._count_faces(num_frames, sinks.searcher.num_frames_of_others)
        self._count(
            {
                "frames_decoded": picture.num_decoded,
                "frames_sampled": picture.sampler.num_kept,
                "frames_capped": int(picture.has_more),
                "timestamps_repaired": picture.sampler.num_repaired,
                **sinks.notes_of_pictures,
            }
        )
        if picture.has_more:
            self.notes["pictures_read"] = _share_read(picture.end_s, file.declared_s)

    def _conclude(self, need: Need, sink: StreamSink, succeeded: bool) -> None:
        """Record why a stream gave no result."""
        if sink.refusal:
            self._fail({need}, sink.refusal)
        elif succeeded:
            return
        elif not sink.found:
            self.missing[need] = f"the file has no {sink.KIND} stream"
        elif sink.codec is None:
            self.failed[need] = f"ffmpeg has no decoder for the {sink.KIND} stream"
        else:
            reason = sink.error or "it ends before its first frame"
            self.failed[need] = f"nothing of the {sink.KIND} stream ({sink.codec}) can be decoded ({reason})"

    def _fail(self, needs: Collection[Need], reason: str) -> None:
        for need in sorted(needs):
            setattr(self, need, None)
            # A need ends in exactly one of result, missing and failed.
            self.missing.pop(need, None)
            self.failed[need] = reason

    def _count_faces(self, num_frames: int, frames_of_others: int) -> None:
        if num_frames and self.faces is None:
            self.missing["faces"] = f"no face found in any of {num_frames} frames"
        self._count({"frames_of_others": frames_of_others})
        found = int(self.faces.detected.sum()) if self.faces else 0
        present = len(self.faces.detected) if self.faces else 0
        self._count(
            {
                "frames_with_face": found,
                "frames_interpolated": present - found,
                "frames_without_face": num_frames - present,
            }
        )

    def _count(self, counts: Mapping[str, int | str]) -> None:
        """Add counts to the notes; zero counts are omitted."""
        for name, count in counts.items():
            if count:
                before = self.notes.get(name)
                self.notes[name] = (
                    count + before if isinstance(count, int) and isinstance(before, int) else count
                )


class _Sinks:
    """The sinks that a file's streams are decoded into."""

    def __init__(self, media: MediaSettings, needs: frozenset[Need]) -> None:
        self.sound = AudioSink(media.sample_rate_hz, media.max_audio_s) if "waveform" in needs else None
        self.collector = FrameCollector(media.frame_side_px) if "frames" in needs else None
        self.searcher = FaceSearcher(media.faces) if "faces" in needs else None
        consumers: list[FrameConsumer] = [c for c in (self.collector, self.searcher) if c]
        self.picture = VideoSink(media.frame_rate_hz, media.max_frames, consumers)
        self.all: list[StreamSink] = [self.picture] if consumers else []
        self.all += [self.sound] if self.sound else []

    @property
    def notes_of_pictures(self) -> dict[str, int]:
        """How the sampled frames were converted; equal for frames and faces."""
        consumer = self.searcher or self.collector
        return dict(consumer.convert.notes) if consumer else {}


def _share_read(read_s: float, declared_s: float) -> str:
    whole = f" of {declared_s:.1f} s" if declared_s > read_s else ""
    return f"{read_s:.1f} s{whole}"
