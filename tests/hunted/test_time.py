"""Inputs that were once read at the wrong time: one clock for the pictures and the sound of a clip."""

from fractions import Fraction

import av
import numpy as np
import pytest
from made_media import (
    RATE_HZ,
    add_pictures,
    add_sound,
    decode,
    level,
    mux,
    picture,
    sine,
    write_film,
    write_sound,
)
from pydantic import ValidationError

from emi_ray.config import MediaSettings
from emi_ray.extraction.summary import StageSummary
from emi_ray.media.clip_notes import remarks
from emi_ray.media.clock import Clock
from emi_ray.media.decode import DECODERS
from emi_ray.media.timeline import SoundTimeline


def write_clip(
    path, sound_start_s=0.0, picture_start_s=0.0, dropped=(), num_pictures=50, sound_s=2.0, codec="pcm_s16le"
):
    """Two seconds; the sound packets numbered in ``dropped`` are left out."""
    with av.open(str(path), "w") as container:
        pictures = add_pictures(
            container, [picture(grey=60 + i) for i in range(num_pictures)], start_s=picture_start_s
        )
        sound = add_sound(container, sine(sound_s), start_s=sound_start_s, codec=codec)
        mux(container, pictures, [packet for i, packet in enumerate(sound) if i not in dropped])
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mov"])
def test_sound_that_starts_a_second_late_is_a_second_late(tmp_path, suffix):
    clip = decode(write_clip(tmp_path / f"a.{suffix}", sound_start_s=1.0))
    samples = clip.waveform.samples
    assert clip.frames.timestamps_s[0] == 0
    assert clip.waveform.duration_s == pytest.approx(3.0, abs=0.01)
    assert not samples[: RATE_HZ - 160].any()
    np.testing.assert_allclose(samples[RATE_HZ:][:8000], sine(0.5), atol=2e-3)
    assert clip.notes["sound_filled_ms"] == pytest.approx(1000, abs=10)


@pytest.mark.parametrize("suffix", ["mkv", "mov"])
def test_pictures_that_start_a_second_late_are_a_second_late(tmp_path, suffix):
    clip = decode(write_clip(tmp_path / f"a.{suffix}", picture_start_s=1.0))
    np.testing.assert_allclose(clip.frames.timestamps_s[:3], [1.0, 1.2, 1.36], atol=2e-3)
    np.testing.assert_allclose(clip.waveform.samples[:8000], sine(0.5), atol=2e-3)


def test_the_clock_is_the_same_whatever_is_decoded(tmp_path):
    late_sound = write_clip(tmp_path / "a.mkv", sound_start_s=1.0)
    late_pictures = write_clip(tmp_path / "b.mkv", picture_start_s=1.0)
    np.testing.assert_array_equal(
        decode(late_sound, "waveform").waveform.samples, decode(late_sound).waveform.samples
    )
    assert decode(late_pictures, "frames").frames.timestamps_s[0] == 1.0


def test_an_offset_that_both_streams_share_is_none(tmp_path):
    clip = decode(write_clip(tmp_path / "a.mkv", sound_start_s=7.0, picture_start_s=7.0))
    assert clip.frames.timestamps_s[0] == 0
    np.testing.assert_allclose(clip.waveform.samples[:8000], sine(0.5), atol=2e-3)


def test_a_film_beside_its_own_sound_file_starts_each_at_its_own_zero(tmp_path):
    film = write_film(tmp_path / "a.mkv", [picture()] * 25, start_s=3.0)
    sound = write_sound(tmp_path / "a.mka", sine(1.0), start_s=5.0)
    clip = decode(film, audio=str(sound))
    assert clip.frames.timestamps_s[0] == 0
    assert clip.waveform.duration_s == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "pcm_s16le"), ("mkv", "aac"), ("ts", "mp2")])
def test_sound_packets_lost_in_the_middle_leave_silence(tmp_path, suffix, codec):
    lost = range(8, 16)
    whole = decode(write_clip(tmp_path / f"whole.{suffix}", codec=codec), "waveform").waveform.samples
    clip = decode(write_clip(tmp_path / f"a.{suffix}", codec=codec, dropped=lost), "waveform")
    samples = clip.waveform.samples
    lost_s = len(lost) * {"pcm_s16le": 0.02, "aac": 0.064, "mp2": 0.072}[codec]
    assert clip.notes["sound_filled_ms"] == pytest.approx(1000 * lost_s, abs=2)
    assert len(samples) == pytest.approx(len(whole), abs=32)
    np.testing.assert_allclose(samples[-8000:-1600], whole[-8000:-1600], atol=0.02)


def test_timestamps_that_jitter_leave_the_sound_alone():
    rng = np.random.default_rng(0)
    timeline = SoundTimeline()
    placed = []
    for index in range(200):
        jitter_s = 0.0 if index % 5 == 0 else rng.uniform(0, 0.04)
        placed += timeline.push(index, 0.02 * index + jitter_s, 0.02)
    placed += timeline.finish()
    assert [entry.piece for entry in placed] == list(range(200))
    assert all(entry.shift_s == 0 for entry in placed[:190])


def test_sound_that_is_there_twice_is_cut_and_timestamps_that_start_anew_are_passed_over():
    def shifts(starts_s):
        timeline = SoundTimeline()
        placed = [entry for start_s in starts_s for entry in timeline.push(None, start_s, 0.02)]
        return [entry.shift_s for entry in placed + timeline.finish()], timeline.num_restarts

    even = [0.02 * index for index in range(100)]
    twice, restarts = shifts([t if index < 50 else t - 0.4 for index, t in enumerate(even)])
    assert twice[50] == pytest.approx(-0.4)
    assert sum(map(bool, twice)) == 1
    anew, restarts = shifts([t if index < 80 else t - 1.6 for index, t in enumerate(even)])
    assert not any(anew)
    assert restarts == 1


def test_a_single_lost_packet_is_a_gap_as_well():
    timeline = SoundTimeline()
    placed = [
        entry for index in [*range(30), *range(31, 60)] for entry in timeline.push(index, 0.02 * index, 0.02)
    ]
    shifts = {entry.piece: entry.shift_s for entry in placed + timeline.finish() if entry.shift_s}
    assert shifts == {31: pytest.approx(0.02)}


def test_a_gap_longer_than_the_sound_that_is_kept_takes_no_memory(tmp_path):
    with av.open(str(tmp_path / "a.mka"), "w") as container:
        packets = add_sound(container, sine(1.0))
        for packet in packets[25:]:
            packet.pts = packet.dts = packet.pts + 360_000 * RATE_HZ
        mux(container, packets)
    clip = decode(None, "waveform", audio=str(tmp_path / "a.mka"), media=MediaSettings(max_audio_s=10))
    assert clip.waveform.duration_s == 10.0
    assert clip.notes["sound_capped"] == 1


def test_timestamps_of_a_transport_stream_that_start_anew_are_no_pause():
    clock = Clock([5.0, 5.2], jumps=True)
    assert clock.read("video", 5.0) == 0
    assert clock.read("video", 6.0) == 1
    assert clock.read("video", 95_000.0) == 1
    assert clock.read("video", 95_000.5) == 1.5
    assert clock.num_jumps == 1
    assert Clock([5.0], jumps=False).read("video", 95_000.0) == 94_995


def test_a_long_film_that_is_cut_says_so(tmp_path):
    film = write_film(tmp_path / "a.mkv", [picture(32, 16)] * 90, rate_hz=1)
    clip = decode(film, media=MediaSettings(max_frames=66, frame_rate_hz=1))
    assert clip.notes["frames_capped"] == 1
    assert clip.notes["pictures_read"].startswith("66.0 s of 90.")
    assert any("only the first 66.0 s of 90." in sentence for sentence in remarks(clip.notes))
    whole = decode(film, media=MediaSettings(max_frames=90, frame_rate_hz=1))
    assert "frames_capped" not in whole.notes


def test_long_sound_that_is_cut_says_so_and_sound_that_just_fits_does_not(tmp_path):
    sound = write_sound(tmp_path / "a.wav", sine(3.0))
    cut = decode(None, "waveform", audio=str(sound), media=MediaSettings(max_audio_s=2))
    assert cut.waveform.duration_s == 2.0
    assert any("only the first 2.0 s of 3.0 s of audio" in sentence for sentence in remarks(cut.notes))
    whole = decode(None, "waveform", audio=str(sound), media=MediaSettings(max_audio_s=3))
    assert "sound_capped" not in whole.notes
    assert level(whole.waveform.samples) > 0.3


@pytest.mark.parametrize("marked", [True, False])
def test_a_poster_before_the_film_is_not_the_film(tmp_path, marked):
    """As a video stream of one picture, marked as the default or not, in a file that does not count its frames."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        poster = add_pictures(container, [picture(200, 100, grey=250)], codec="mjpeg", default=marked)
        film = add_pictures(container, [picture(grey=90)] * 25, default=False)
        mux(container, poster, film)
    clip = decode(path, "frames")
    assert len(clip.frames.timestamps_s) == 6
    assert clip.frames.pixels[0, -8:, -8:].mean() == pytest.approx(90, abs=4)
    assert clip.notes["video_choice"].startswith("stream 1 (h264, 96 x 64")
    assert "not read: stream 0 (mjpeg, 200 x 100, a single picture" in clip.notes["video_choice"]


def test_of_two_films_the_default_one_is_read_and_else_the_longer(tmp_path):
    def chosen(name, first, second):
        with av.open(str(tmp_path / name), "w") as container:
            mux(
                container,
                add_pictures(container, [picture(grey=60)] * first[0], default=first[1]),
                add_pictures(container, [picture(grey=200)] * second[0], default=second[1]),
            )
        clip = decode(tmp_path / name, "frames")
        return 1 if clip.frames.pixels[0, -8:, -8:].mean() < 130 else 2

    assert chosen("a.mkv", (10, False), (25, False)) == 2
    assert chosen("b.mkv", (25, False), (10, False)) == 1
    assert chosen("c.mkv", (10, True), (25, False)) == 1
    assert chosen("d.mkv", (25, False), (10, True)) == 2


def test_of_two_sound_tracks_the_default_one_is_read_and_else_the_longer(tmp_path):
    def hz(name, first, second):
        with av.open(str(tmp_path / name), "w") as container:
            mux(
                container,
                add_sound(container, sine(first[0], 300), default=first[1]),
                add_sound(container, sine(second[0], 900), default=second[1]),
            )
        clip = decode(None, "waveform", audio=str(tmp_path / name))
        assert "not read: stream" in clip.notes["audio_choice"]
        spectrum = np.abs(np.fft.rfft(clip.waveform.samples))
        return round(spectrum.argmax() / len(clip.waveform.samples) * RATE_HZ, -1)

    assert hz("a.mka", (0.1, False), (1.0, False)) == 900
    assert hz("b.mka", (1.0, False), (1.0, False)) == 300
    assert hz("c.mka", (0.5, True), (1.0, False)) == 300
    assert hz("d.mka", (1.0, False), (0.5, True)) == 900


def test_commentary_is_not_the_sound_track(tmp_path):
    with av.open(str(tmp_path / "a.mka"), "w") as container:
        commentary = add_sound(container, sine(1.0, 300), default=True)
        container.streams[0].disposition = av.stream.Disposition.comment | av.stream.Disposition.default
        mux(container, commentary, add_sound(container, sine(1.0, 900), default=False))
    clip = decode(None, "waveform", audio=str(tmp_path / "a.mka"))
    assert clip.notes["audio_choice"].startswith("stream 1")


def test_a_size_that_changes_in_mid_stream_squeezes_nothing(tmp_path):
    """VP8 changes its size with any key frame; the disc must stay round and the frame's shape that of the first."""
    wide, tall = picture(120, 72), picture(72, 120)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = 120, 72, "yuv420p"
        for part, pixels in enumerate((wide, tall)):
            encoder = av.CodecContext.create("libvpx", "w")
            encoder.height, encoder.width = pixels.shape[:2]
            encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 1000)
            encoder.bit_rate = 2_000_000
            frames = []
            for index in range(25):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = 1000 * part + 40 * index, Fraction(1, 1000)
                frames += encoder.encode(frame)
            for packet in frames + encoder.encode(None):
                packet.stream, packet.time_base = stream, Fraction(1, 1000)
                container.mux(packet)
    clip = decode(tmp_path / "a.mkv", "frames")
    assert clip.frames.pixels.shape[1:3] == (72, 120)
    assert clip.notes["frames_resized"] == 6
    for pixels in clip.frames.pixels[[0, -1]]:
        disc = np.argwhere(pixels.min(axis=2) > 220)
        height, width = np.ptp(disc, axis=0) + 1
        assert height / width == pytest.approx(1.0, abs=0.2)


def test_what_happened_to_clips_stands_in_the_summary_sentence_by_sentence():
    summary = StageSummary()
    for lost_ms in (40, 900):
        notes = {"sound_filled_ms": lost_ms, "frames_turned": 18, "frames_decoded": 75}
        summary.add("ok", "\n".join(remarks(notes)), 1, 0.1)
    assert summary.remarks == {
        "frames that were rotated or mirrored, as the file demands: 18": 2,
        "gaps in the audio: 40 ms of silence were inserted": 2,
    }


def test_the_decoder_is_chosen_by_name_and_part_of_the_fingerprint():
    assert set(DECODERS) == {MediaSettings().decoder}
    assert MediaSettings().deciding({"frames"})["decoder"] == "ffmpeg"
    with pytest.raises(ValidationError):
        MediaSettings(decoder="nosuch")
