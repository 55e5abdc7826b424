"""Decoding, with a rendered file for each test."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from media_files import decode, indices, times, tone, write_video, write_wav

from emi_ray.config import MediaSettings
from emi_ray.media import containers
from emi_ray.media.decode import decode_clip
from emi_ray.media.sinks import VideoSink
from emi_ray.media.source import ClipSource

CLIPS = Path(__file__).parents[3] / "shared" / "clips"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Three seconds at 25 frames a second, with sound."""
    return write_video(tmp_path_factory.mktemp("media") / "clip.mp4", times(75), sound_s=3.0)


def naive_choice(times_s, rate_hz=6.0):
    points = [k / rate_hz for k in range(1000)]
    chosen = []
    for point, following in pairwise(points):
        chosen += [i for i, t in enumerate(times_s) if point - 1e-3 <= t < following - 1e-3][:1]
    return chosen


def test_kept_frames_are_those_of_a_naive_reader(clip):
    decoded = decode(clip)
    expected = naive_choice(times(75))
    assert indices(decoded) == expected
    np.testing.assert_allclose(decoded.frames.timestamps_s, np.array(expected) / 25, atol=1e-6)
    assert decoded.notes["frames_sampled"] == len(expected) == 18


def test_a_variable_frame_rate_is_sampled_by_time(tmp_path):
    irregular = [0, 0.01, 0.02, 0.03, 0.5, 0.51, 0.9, 1.4, 1.41, 1.42, 1.7]
    assert indices(decode(write_video(tmp_path / "vfr.mp4", irregular))) == naive_choice(irregular)


def test_a_container_that_lies_about_its_frame_rate_changes_nothing(tmp_path, clip):
    for rate_hz in (1, 1000):
        lying = write_video(tmp_path / f"{rate_hz}.mkv", times(75), rate_hz=rate_hz)
        assert indices(decode(lying)) == indices(decode(clip))


def test_a_first_timestamp_other_than_zero_is_time_zero(tmp_path):
    late = write_video(tmp_path / "late.mkv", [10 + time_s for time_s in times(25)])
    decoded = decode(late)
    assert indices(decoded) == naive_choice(times(25))
    assert decoded.frames.timestamps_s[0] == 0


def test_a_stream_without_timestamps_is_sampled_all_the_same(tmp_path):
    raw = write_video(tmp_path / "raw.m4v", times(50), codec="mpeg4")
    decoded = decode(raw)
    assert len(decoded.frames.timestamps_s) == 12
    assert (np.diff(decoded.frames.timestamps_s) > 0).all()


def test_frames_skipped_by_the_decoder_are_never_those_wanted(clip, monkeypatch):
    fast = decode(clip)
    monkeypatch.setattr(VideoSink, "needs", lambda self, timestamp_s: True)
    slow = decode(clip)
    np.testing.assert_array_equal(fast.frames.pixels, slow.frames.pixels)
    assert fast.notes["frames_decoded"] <= slow.notes["frames_decoded"] == 75


def test_both_streams_of_a_file_are_read_in_one_pass(clip, monkeypatch):
    opened, really_open = [], av.open

    def count(*args, **options):
        opened.append(args)
        return really_open(*args, **options)

    monkeypatch.setattr(containers.av, "open", count)
    decoded = decode(clip, "frames", "faces", "waveform", audio=str(clip))
    assert len(opened) == 1
    assert decoded.frames is not None
    assert decoded.waveform is not None


def test_only_what_is_needed_is_decoded(clip):
    decoded = decode(clip, "waveform")
    assert decoded.frames is None
    assert "frames_decoded" not in decoded.notes
    assert not decoded.missing
    assert not decoded.failed


def test_what_is_decoded_does_not_depend_on_what_else_is_needed(clip):
    alone, together = decode(clip, "frames"), decode(clip, "frames", "faces", "waveform")
    np.testing.assert_array_equal(alone.frames.pixels, together.frames.pixels)
    np.testing.assert_array_equal(decode(clip, "waveform").waveform.samples, together.waveform.samples)


def test_after_max_frames_nothing_more_is_decoded(clip):
    decoded = decode(clip, media=MediaSettings(max_frames=4))
    assert len(decoded.frames.timestamps_s) == 4
    assert decoded.notes["frames_capped"] == 1
    assert decoded.notes["frames_decoded"] < 40
    assert decoded.waveform.duration_s == pytest.approx(3.0, abs=0.05)


def test_a_sixteen_kilohertz_wave_passes_unchanged(tmp_path):
    samples = tone(1.0, 16000)
    decoded = decode(None, "waveform", audio=str(write_wav(tmp_path / "a.wav", samples, 16000)))
    assert decoded.waveform.sample_rate_hz == 16000
    assert decoded.waveform.samples.dtype == np.float32
    np.testing.assert_allclose(decoded.waveform.samples, samples, atol=5e-5)


def test_a_stereo_wave_at_another_rate_becomes_the_same_sine(tmp_path):
    stereo = np.stack([tone(1.0, 44100)] * 2)
    decoded = decode(None, "waveform", audio=str(write_wav(tmp_path / "a.wav", stereo, 44100)))
    assert len(decoded.waveform.samples) == pytest.approx(16000, abs=2)
    np.testing.assert_allclose(decoded.waveform.samples[400:15000], tone(1.0, 16000)[400:15000], atol=1e-4)


def test_sound_beyond_the_cap_is_left_out(tmp_path):
    sound = write_wav(tmp_path / "a.wav", tone(3.0, 16000), 16000)
    decoded = decode(None, "waveform", audio=str(sound), media=MediaSettings(max_audio_s=1.5))
    assert decoded.waveform.duration_s == 1.5
    assert decoded.notes["sound_capped"] == 1


def test_sound_comes_from_the_sound_file_where_there_is_one(tmp_path, clip):
    sound = write_wav(tmp_path / "a.wav", np.zeros(8000, np.float32), 16000)
    decoded = decode(clip, audio=str(sound))
    assert decoded.waveform.duration_s == 0.5
    assert not decoded.waveform.samples.any()


def test_bytes_paths_and_uris_give_the_same(clip):
    as_uri = decode_clip(ClipSource("clip", video=clip.as_uri()), MediaSettings(), frozenset({"frames"}))
    expected = decode(clip, "frames").frames.pixels
    np.testing.assert_array_equal(as_uri.frames.pixels, expected)
    np.testing.assert_array_equal(decode(clip.read_bytes(), "frames").frames.pixels, expected)


def test_a_rotation_in_the_metadata_is_carried_out(tmp_path):
    upright = decode(write_video(tmp_path / "a.mp4", times(3)), "frames").frames.pixels[0]
    for turn in (90, 180, -90):
        turned = decode(write_video(tmp_path / f"{turn}.mp4", times(3), turn=turn), "frames").frames.pixels[0]
        expected = np.rot90(upright, turn // 90)
        assert turned.shape == expected.shape
        assert np.abs(turned.astype(int) - expected.astype(int)).max() <= 3


def test_frames_are_shrunk_to_the_shorter_side_and_never_enlarged(tmp_path):
    large = write_video(tmp_path / "a.mp4", times(2), width=320, height=160)
    assert decode(large, "frames", media=MediaSettings(frame_side_px=80)).frames.pixels.shape[1:] == (
        80,
        160,
        3,
    )
    assert decode(large, "frames").frames.pixels.shape[1:] == (160, 320, 3)


def test_a_missing_stream_is_missing_and_not_failed(tmp_path):
    silent = decode(write_video(tmp_path / "a.mp4", times(10)), "frames", "faces", "waveform")
    assert silent.missing["waveform"] == "the file has no audio stream"
    assert silent.missing["faces"] == "no face found in any of 3 frames"
    heard = decode(write_wav(tmp_path / "a.wav", tone(1.0, 16000), 16000), "frames", "faces", "waveform")
    assert heard.missing == dict.fromkeys(("faces", "frames"), "the file has no video stream")
    assert heard.waveform.duration_s == 1.0
    assert not silent.failed
    assert not heard.failed


def test_a_clip_without_files_lacks_everything():
    decoded = decode(None, "frames", "waveform", "transcript", "openface_csv")
    assert decoded.missing == {
        "frames": "the clip has no media file",
        "waveform": "the clip has no media file",
        "transcript": "no transcript is given",
        "openface_csv": "no OpenFace CSV is given",
    }


def test_a_truncated_file_gives_what_it_has(tmp_path):
    whole = write_video(
        tmp_path / "a.mp4", times(75), sound_s=3.0, container_options={"movflags": "faststart"}, width=320
    )
    data = whole.read_bytes()
    decoded = decode(data[: len(data) // 2])
    assert decoded.notes["truncated"] == 1
    assert indices(decoded) == naive_choice(times(75))[: len(decoded.frames.timestamps_s)]
    assert 2 < len(decoded.frames.timestamps_s) < 18


def test_damage_in_the_middle_costs_neither_the_rest_nor_an_error(clip):
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 2000
    data[start : start + 400] = bytes(range(200)) * 2
    decoded = decode(bytes(data))
    assert decoded.waveform is not None
    assert len(decoded.frames.timestamps_s) > 9


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"this is no video at all\n", "not a media file that ffmpeg can read (Invalid data"),
        (None, "file not found: "),
    ],
)
def test_what_is_no_media_file_fails_with_a_reason(tmp_path, content, reason):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    decoded = decode(path, "frames", "faces", "waveform")
    assert set(decoded.failed) == {"frames", "faces", "waveform"}
    assert all(text.startswith(reason) for text in decoded.failed.values())


def test_a_folder_and_an_unknown_scheme_fail_with_a_reason(tmp_path):
    assert decode(tmp_path).failed["frames"] == f"a folder stands where a file is expected: {tmp_path}"
    assert "cannot be opened" in decode(None, "waveform", audio="nosuch://place/a.wav").failed["waveform"]


def test_a_name_that_starts_with_a_dash_is_a_name(tmp_path, monkeypatch, clip):
    (tmp_path / "-clip.mp4").write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(decode(Path("-clip.mp4")).frames.timestamps_s) == 18


def test_one_frame_is_a_clip(tmp_path):
    assert indices(decode(write_video(tmp_path / "a.mp4", [0.0]), "frames")) == [0]


def test_a_gif_and_a_photograph_are_clips(tmp_path):
    with av.open(str(tmp_path / "a.gif"), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "rgb8"
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 20 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame.reformat(format="rgb8")))
        container.mux(stream.encode(None))
    assert len(decode(tmp_path / "a.gif", "frames").frames.timestamps_s) == 6
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((24, 32, 3), 90, np.uint8))
    assert decode(tmp_path / "a.jpg", "frames").frames.pixels.shape == (1, 24, 32, 3)


def test_transcript_and_openface_csv_come_along(tmp_path):
    (tmp_path / "a.csv").write_text("frame, confidence\n1, 0.9\n")
    needs = ("transcript", "openface_csv")
    decoded = decode(None, *needs, transcript="well done", openface_csv=str(tmp_path / "a.csv"))
    assert decoded.transcript == "well done"
    assert decoded.openface_csv.startswith("frame, confidence")
    assert decode(None, *needs, transcript=" \n").missing["transcript"] == "the transcript is empty"
    assert decode(None, *needs, openface_csv="gone.csv").failed["openface_csv"] == "file not found: gone.csv"


@pytest.mark.parametrize("path", sorted(CLIPS.glob("odd/*")), ids=lambda path: path.name)
def test_every_odd_clip_ends_with_content_or_with_a_reason(path):
    decoded = decode(path, "frames", "faces", "waveform")
    for need in ("frames", "faces", "waveform"):
        given = getattr(decoded, need) is not None
        assert given + (need in decoded.missing) + (need in decoded.failed) == 1, need


@pytest.mark.parametrize("path", sorted(CLIPS.glob("talking/*.mpg"))[:3], ids=lambda path: path.name)
def test_every_talking_clip_gives_a_face_and_a_voice(path):
    decoded = decode(path, "faces", "waveform")
    assert (
        decoded.notes.items() >= {"frames_decoded": 75, "frames_sampled": 18, "frames_with_face": 18}.items()
    )
    assert decoded.faces.crops.shape == (18, 224, 224, 3)
    assert decoded.waveform.duration_s > 2.9
