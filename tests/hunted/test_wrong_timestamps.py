"""Clips in which a few timestamps are wrong: the rest of the clip must keep its place in time."""

from fractions import Fraction

import av
import numpy as np
import pytest
from made_media import RATE_HZ, add_pictures, decode, mux, picture, sound_frame

from emi_ray.media.clip_notes import remarks
from emi_ray.media.clock import Clock
from emi_ray.media.frame_times import FrameTimes
from emi_ray.media.sinks import VideoSink
from emi_ray.media.timeline import SoundTimeline

NUM_PACKETS = 250
PACKET_S = 0.04
TICKS_HZ = 16000


def write_clip(path, wrong_pictures=(), wrong_pieces=(), wrong_by_s=500.0):
    """Write 10 s of pictures and sound in packets of 40 ms. Timestamps of the packets named are wrong."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        video.codec_context.time_base = Fraction(1, TICKS_HZ)
        audio = container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for index in range(NUM_PACKETS):
            pixels = av.VideoFrame.from_ndarray(picture(64, 48, grey=index), format="rgb24")
            samples = np.full((1, 640), 0.25 if index % 2 else -0.25, np.float32)
            for stream, frame, wrong in (
                (video, pixels, wrong_pictures),
                (audio, sound_frame(samples, "s16", "mono", RATE_HZ), wrong_pieces),
            ):
                frame.pts, frame.time_base = index * 640, Fraction(1, TICKS_HZ)
                for packet in stream.encode(frame):
                    packet.pts = packet.dts = index * 640
                    if index in wrong:
                        packet.pts += round(wrong_by_s * TICKS_HZ)
                    packet.time_base = Fraction(1, TICKS_HZ)
                    container.mux(packet)
    return path


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    return decode(write_clip(tmp_path_factory.mktemp("right") / "a.mkv"))


@pytest.mark.parametrize(
    ("wrong", "wrong_by_s"),
    [
        ([50], 500.0),
        ([50], 3.0),
        ([0], 500.0),
        ([0, 1, 2], 500.0),
        ([1], 500.0),
        ([100, 101, 102, 103], 500.0),
        ([50, 120, 200], 60.0),
        ([249], 500.0),
        ([248, 249], 500.0),
    ],
)
def test_pictures_with_wrong_timestamps_do_not_move_the_others(tmp_path, right, wrong, wrong_by_s):
    clip = decode(write_clip(tmp_path / "a.mkv", wrong_pictures=wrong, wrong_by_s=wrong_by_s))
    np.testing.assert_allclose(clip.frames.timestamps_s, right.frames.timestamps_s, atol=2e-3)
    np.testing.assert_array_equal(clip.frames.pixels, right.frames.pixels)
    np.testing.assert_array_equal(clip.waveform.samples, right.waveform.samples)
    assert clip.media_duration_s == pytest.approx(10.0, abs=0.01)
    assert clip.notes["timestamps_repaired"] == len(wrong)


def test_a_wrong_first_timestamp_of_a_clip_without_other_streams_is_repaired(tmp_path, right):
    clip = decode(write_clip(tmp_path / "a.mkv", wrong_pictures=[0]), "frames")
    np.testing.assert_allclose(clip.frames.timestamps_s, right.frames.timestamps_s, atol=2e-3)


@pytest.mark.parametrize("wrong", [[249], [248, 249], [247, 248, 249], [241], [242], [100], [0], [100, 101]])
def test_pieces_of_sound_with_wrong_timestamps_insert_no_silence(tmp_path, right, wrong):
    clip = decode(write_clip(tmp_path / "a.mkv", wrong_pieces=wrong))
    np.testing.assert_array_equal(clip.waveform.samples, right.waveform.samples)
    np.testing.assert_array_equal(clip.frames.timestamps_s, right.frames.timestamps_s)
    assert clip.notes["sound_stamps_ignored"] == len(wrong)
    assert f"pieces of audio whose timestamps were wrong and were ignored: {len(wrong)}" in remarks(
        clip.notes
    )


def shifts(starts_s):
    """Shifts by index of the piece, without those of zero; each piece has 20 ms."""
    timeline = SoundTimeline()
    placed = [
        entry for index, start_s in enumerate(starts_s) for entry in timeline.push(index, start_s, 0.02)
    ]
    placed += timeline.finish()
    assert [entry.piece for entry in placed] == list(range(len(starts_s)))
    return {entry.piece: entry.shift_s for entry in placed if entry.shift_s}


EVEN = [0.02 * index for index in range(100)]


@pytest.mark.parametrize("num_after", [4, 5, 8, 50])
def test_a_genuine_gap_near_the_end_becomes_silence(num_after):
    first = len(EVEN) - num_after
    assert shifts(EVEN[:first] + [time_s + 3 for time_s in EVEN[first:]]) == {first: pytest.approx(3)}


def test_short_gaps_before_the_last_piece_and_gaps_at_the_start_need_no_confirmation():
    assert shifts([*EVEN[:-1], EVEN[-1] + 0.5]) == {99: pytest.approx(0.5)}
    assert shifts([3.0]) == {0: 3.0}
    assert shifts([3.0, 3.02]) == {0: 3.0}


@pytest.mark.parametrize("wrong_s", [15.0, 10.5, 500.0, -500.0])
@pytest.mark.parametrize("num_wrong", [1, 3])
def test_wrong_timestamps_of_a_transport_stream_are_no_restart(wrong_s, num_wrong):
    clock = Clock([0.0], jumps=True)
    times_s = [
        clock.read("video", stamp_s + (wrong_s if 20 <= index < 20 + num_wrong else 0.0))
        for index, stamp_s in enumerate(EVEN)
    ]
    assert times_s[:20] + times_s[20 + num_wrong :] == EVEN[:20] + EVEN[20 + num_wrong :]
    assert clock.num_jumps == 0


def test_different_wrong_timestamps_of_a_transport_stream_are_no_restart():
    clock = Clock([0.0], jumps=True)
    stamps_s = [*EVEN[:20], 502.0, 300.0, -40.0, *EVEN[23:]]
    assert [clock.read("audio", stamp_s) for stamp_s in stamps_s][23:] == EVEN[23:]
    assert clock.num_jumps == 0


def test_a_transport_stream_with_a_wrong_timestamp_keeps_its_times(tmp_path):
    def written(name, wrong):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for index in range(100):
                frame = av.VideoFrame.from_ndarray(picture(64, 48, grey=index), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                for packet in stream.encode(frame):
                    if index in wrong:
                        packet.pts += 500 * 25
                    container.mux(packet)
        return decode(path, "frames")

    right, clip = written("right.ts", ()), written("wrong.ts", (50,))
    np.testing.assert_allclose(clip.frames.timestamps_s, right.frames.timestamps_s, atol=2e-3)
    assert clip.notes["timestamps_repaired"] == 1
    assert "timestamps_jumped" not in clip.notes


@pytest.mark.parametrize("wrong", [(), (40,), (41, 42), (43, 80, 81, 82), (119,)])
@pytest.mark.parametrize("wrong_by_s", [500.0, 0.5])
def test_frames_skipped_by_the_decoder_are_not_missed_after_a_wrong_timestamp(
    tmp_path, monkeypatch, wrong, wrong_by_s
):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        packets = add_pictures(container, [picture(grey=60 + index) for index in range(120)])
        for index in wrong:
            packets[index].pts += round(wrong_by_s * 12800)
        mux(container, packets)
    fast = decode(tmp_path / "a.mkv", "frames")
    monkeypatch.setattr(VideoSink, "needs", lambda self, time_s: True)
    slow = decode(tmp_path / "a.mkv", "frames")
    np.testing.assert_array_equal(fast.frames.timestamps_s, slow.frames.timestamps_s)
    np.testing.assert_array_equal(fast.frames.pixels, slow.frames.pixels)


@pytest.mark.parametrize("stamps", [[0, 12, 24, 36], [0, 0.04, 0.08, 20, 40, 60]])
def test_a_few_pictures_at_long_intervals_keep_their_times(stamps):
    times: FrameTimes[int] = FrameTimes(0.04)
    settled = [timed for index, stamp in enumerate(stamps) for timed in times.push(index, stamp)]
    assert [timed.time_s for timed in [*settled, *times.finish()]] == pytest.approx(stamps)


def test_loops_of_less_than_a_second_do_not_stop_the_clock():
    times: FrameTimes[int] = FrameTimes(0.04)
    stamps = [0.04 * index for _ in range(6) for index in range(20)]
    settled = [timed for index, stamp in enumerate(stamps) for timed in times.push(index, stamp)]
    assert [*settled, *times.finish()][-1].time_s > 3.9
