"""A clip's files → frames, faces, waveform. What is wrong with a clip ends as a reason, never as an error."""

from collections import Counter
from dataclasses import dataclass, field

from av.video.frame import VideoFrame

from emi_ray.config import MediaSettings
from emi_ray.media.clip import DecodedClip, Faces, Frames, Waveform
from emi_ray.media.detection import build_finder
from emi_ray.media.faces import read_ready_crops
from emi_ray.media.sinks import (
    WORKING_SIDE_PX,
    AudioSink,
    FrameCollector,
    FrameConsumer,
    RgbConverter,
    VideoSink,
)
from emi_ray.media.source import ClipSource, UnreadableError, open_media, read_text
from emi_ray.media.streams import StreamSink, read_streams
from emi_ray.media.tracking import FaceTracker
from emi_ray.schema import Need


def decode_clip(source: ClipSource, media: MediaSettings, needs: frozenset[Need]) -> DecodedClip:
    """Decode what ``needs`` asks for, and nothing else; each file is read once.

    Raises:
        UserError: the face detector that ``media`` asks for cannot be had. A bad clip never raises.
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
        missing=decoding.missing,
        failed=decoding.failed,
        notes=dict(decoding.notes),
    )


@dataclass
class _Decoding:
    """The work on one clip, and what it has given so far."""

    source: ClipSource
    media: MediaSettings
    needs: frozenset[Need]
    frames: Frames | None = None
    faces: Faces | None = None
    waveform: Waveform | None = None
    transcript: str | None = None
    openface_csv: str | None = None
    missing: dict[Need, str] = field(default_factory=dict)
    failed: dict[Need, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        if "transcript" in self.needs:
            self._take_transcript()
        if "openface_csv" in self.needs:
            self._read_openface_csv()
        from_video = self.needs & {"frames", "faces"}
        if "faces" in self.needs and self.source.faces_dir is not None:
            self._read_faces_dir(self.source.faces_dir)
            from_video -= {"faces"}
        if "waveform" in self.needs and self.source.audio in (None, self.source.video):
            from_video |= {"waveform"}
        elif "waveform" in self.needs:
            self._read_media(self.source.audio, frozenset({"waveform"}))
        self._read_media(self.source.video, from_video)

    def _take_transcript(self) -> None:
        text = self.source.transcript
        self.transcript = text if text and text.strip() else None
        if self.transcript is None:
            self.missing["transcript"] = (
                "no transcript is given" if text is None else "the transcript is empty"
            )

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

    def _read_media(self, file: str | bytes | None, needs: frozenset[Need]) -> None:
        """Read one media file; each of ``needs`` ends in a result, in ``missing`` or in ``failed``."""
        if not needs:
            return
        if file is None:
            self.missing |= dict.fromkeys(sorted(needs), "the clip has no media file")
            return
        sound = AudioSink(self.media.sample_rate_hz, self.media.max_audio_s)
        collector = FrameCollector(self.media.frame_side_px)
        searcher = _FaceSearcher(self.media) if "faces" in needs else None
        consumers: list[FrameConsumer] = [collector] if "frames" in needs else []
        consumers += [searcher] if searcher else []
        picture = VideoSink(self.media.frame_rate_hz, self.media.max_frames, consumers)
        sinks: list[StreamSink] = [picture] if consumers else []
        sinks += [sound] if "waveform" in needs else []
        try:
            with open_media(file) as stream:
                read_streams(stream, sinks)
        except UnreadableError as error:
            self.failed |= dict.fromkeys(sorted(needs), str(error))
            return
        if "waveform" in needs:
            self.waveform = sound.finish()
            self._conclude("waveform", sound, self.waveform is not None)
        if "frames" in needs:
            self.frames = collector.finish()
            self._conclude("frames", picture, self.frames is not None)
        if searcher:
            self.faces = searcher.finish()
            self._conclude("faces", picture, searcher.tracker.num_frames > 0)
            self._count_faces(searcher.tracker.num_frames)
        if consumers:
            self._count_frames(picture)
        self._count(
            {
                "sound_capped": int(sound.full),
                "packets_corrupt": sum(sink.packets_corrupt for sink in sinks),
                "truncated": int(any(sink.truncated for sink in sinks)),
            }
        )

    def _conclude(self, need: Need, sink: StreamSink, succeeded: bool) -> None:
        """Say why a stream gave nothing."""
        if succeeded:
            return
        if not sink.found:
            self.missing[need] = f"the file has no {sink.KIND} stream"
        elif sink.codec is None:
            self.failed[need] = f"ffmpeg has no decoder for the {sink.KIND} stream"
        else:
            reason = sink.error or "it ends before its first frame"
            self.failed[need] = f"nothing of the {sink.KIND} stream ({sink.codec}) can be decoded ({reason})"

    def _count_frames(self, sink: VideoSink) -> None:
        self._count(
            {
                "frames_decoded": sink.num_decoded,
                "frames_sampled": sink.sampler.num_kept,
                "frames_capped": int(sink.full),
                "timestamps_repaired": sink.sampler.num_repaired,
            }
        )

    def _count_faces(self, num_frames: int) -> None:
        if num_frames and self.faces is None:
            self.missing["faces"] = f"no face found in any of {num_frames} frames"
        found = int(self.faces.detected.sum()) if self.faces else 0
        present = len(self.faces.detected) if self.faces else 0
        self._count(
            {
                "frames_with_face": found,
                "frames_interpolated": present - found,
                "frames_without_face": num_frames - present,
            }
        )

    def _count(self, counts: dict[str, int]) -> None:
        """Add to the notes; of what never happened nothing is noted."""
        self.notes.update({name: count for name, count in counts.items() if count})


class _FaceSearcher:
    """Feeds a tracker with sampled frames of bounded size."""

    def __init__(self, media: MediaSettings) -> None:
        self.tracker = FaceTracker(build_finder(media.faces), media.faces)
        self._convert: RgbConverter | None = None

    def take(self, frame: VideoFrame, time_s: float) -> None:
        if self._convert is None:
            self._convert = RgbConverter(frame, WORKING_SIDE_PX / max(frame.width, frame.height))
        self.tracker.see(self._convert(frame), time_s)

    def finish(self) -> Faces | None:
        return self.tracker.finish()


__all__ = ["decode_clip"]
