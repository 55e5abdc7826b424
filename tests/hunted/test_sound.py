"""Sound that was once heard otherwise than a person hears it."""

import av
import numpy as np
import pytest
from made_media import (
    RATE_HZ,
    add_pictures,
    add_sound,
    decibels,
    decode,
    level,
    mux,
    picture,
    sine,
    write_sound,
)

from emi_ray.media.clip_notes import remarks
from emi_ray.media.downmixing import WEIGHTS, combine, settle, weights_of

VOICE = sine(1.0, 440, 0.3)


def heard(path):
    clip = decode(None, "waveform", audio=str(path))
    assert not clip.failed, clip.failed
    assert np.abs(clip.waveform.samples).max() <= 1
    return clip.waveform.samples, clip


def in_channel(layout, channel, samples=VOICE):
    """The voice in one channel, silence in all others."""
    channels = [entry.name for entry in av.AudioLayout(layout).channels]
    rows = np.zeros((len(channels), len(samples)), np.float32)
    rows[channels.index(channel) if isinstance(channel, str) else channel] = samples
    return rows


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
def test_samples_that_are_no_numbers_are_refused(tmp_path, value, codec):
    samples = VOICE.copy()
    samples[4000:4010] = value
    clip = decode(None, "waveform", audio=str(write_sound(tmp_path / "a.wav", samples, codec=codec)))
    assert clip.waveform is None
    assert clip.failed["waveform"] == "the sound holds values that are not numbers (NaN or infinity)"


def test_samples_that_are_no_numbers_cost_the_pictures_nothing(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        broken = add_sound(container, np.full(RATE_HZ, np.nan, np.float32), codec="pcm_f32le")
        mux(container, add_pictures(container, [picture()] * 25), broken)
    clip = decode(tmp_path / "a.mkv")
    assert len(clip.frames.timestamps_s) == 6
    assert set(clip.failed) == {"waveform"}


@pytest.mark.parametrize("offset", [0.02, -0.3])
def test_an_offset_is_removed_and_pauses_stay_silent(tmp_path, offset):
    samples = np.concatenate([VOICE, np.zeros(RATE_HZ, np.float32), VOICE]) + np.float32(offset)
    seen, clip = heard(write_sound(tmp_path / "a.wav", samples, codec="pcm_f32le"))
    assert abs(seen.mean()) < 1e-4
    assert np.abs(seen[RATE_HZ + 100 : 2 * RATE_HZ - 100]).max() < 1e-3
    assert clip.notes["offset_removed"] == 1
    plain, clip = heard(write_sound(tmp_path / "b.wav", samples - np.float32(offset), codec="pcm_f32le"))
    np.testing.assert_allclose(seen, plain, atol=1e-3)
    assert "offset_removed" not in clip.notes


def test_an_offset_is_measured_where_there_is_sound():
    samples = np.concatenate([np.zeros(1000), sine(0.1) + 0.1]).astype(np.float32)
    settled, notes = settle(samples, [slice(0, 1000)])
    assert not settled[:1000].any()
    assert abs(settled[1000:].mean()) < 1e-6
    assert notes["offset_removed"] == 1


@pytest.mark.parametrize(
    "codec",
    ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw"],
)
def test_full_scale_is_one_whatever_the_sample_format(tmp_path, codec):
    loud = sine(1.0, 440, 0.98)
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        mux(container, add_sound(container, loud, codec=codec))
    seen, _ = heard(path)
    tolerance = 0.04 if codec in ("pcm_u8", "pcm_alaw", "pcm_mulaw") else 1e-3
    np.testing.assert_allclose(seen, loud, atol=tolerance)


def test_numbers_of_integers_in_a_file_of_floats_are_scaled_and_not_squared_off(tmp_path):
    seen, clip = heard(write_sound(tmp_path / "a.wav", VOICE * 32768, codec="pcm_f32le"))
    np.testing.assert_allclose(seen, VOICE / VOICE.max(), atol=1e-3)
    assert any("exceeded full scale" in sentence for sentence in remarks(clip.notes))


def test_a_glitch_beyond_full_scale_does_not_silence_the_voice(tmp_path):
    samples = VOICE.copy()
    samples[5000] = 1e6
    seen, clip = heard(write_sound(tmp_path / "a.wav", samples, codec="pcm_f32le"))
    assert level(seen[8000:]) > 0.1
    assert clip.notes["samples_clipped"] >= 1


@pytest.mark.parametrize("layout", ["5.1", "5.1(side)", "7.1", "3.0"])
def test_a_voice_in_the_centre_keeps_its_level(tmp_path, layout):
    path = write_sound(tmp_path / "a.wav", in_channel(layout, "FC"), layout=layout, codec="pcm_f32le")
    assert decibels(heard(path)[0], VOICE) == pytest.approx(0, abs=0.1)


def test_low_frequency_effects_are_not_part_of_the_mix(tmp_path):
    rows = in_channel("5.1", "FC") + in_channel("5.1", "LFE", sine(1.0, 50, 0.9))
    seen, _ = heard(write_sound(tmp_path / "a.wav", rows, layout="5.1", codec="pcm_f32le"))
    np.testing.assert_allclose(seen, VOICE, atol=1e-3)


@pytest.mark.parametrize(
    "layout", ["stereo", "2.1", "quad", "4.0", "5.0", "5.1", "6.1", "7.1", "downmix", "22.2"]
)
def test_a_voice_in_any_one_channel_is_heard(tmp_path, layout):
    for channel in av.AudioLayout(layout).channels:
        rows = in_channel(layout, channel.name)
        path = write_sound(tmp_path / f"{channel.name}.mka", rows, layout=layout, codec="pcm_f32le")
        assert -12.5 < decibels(heard(path)[0], VOICE) < 0.1


@pytest.mark.parametrize("num_channels", [3, 9, 16, 60])
def test_many_channels_without_places_are_one_voice_at_its_level(tmp_path, num_channels):
    layout = f"{num_channels} channels"
    alone = write_sound(tmp_path / "a.mka", in_channel(layout, num_channels - 1), layout=layout)
    assert decibels(heard(alone)[0], VOICE) == pytest.approx(0, abs=0.1)
    everywhere = np.repeat(VOICE[np.newaxis], num_channels, axis=0)
    seen, clip = heard(write_sound(tmp_path / "b.mka", everywhere, layout=layout))
    assert decibels(seen, VOICE) == pytest.approx(0, abs=0.1)
    assert clip.notes["channels_mixed"] == num_channels


def test_a_voice_on_one_side_keeps_its_level_and_equal_sides_are_averaged(tmp_path):
    silence = np.zeros_like(VOICE)
    for rows in ([VOICE, silence], [silence, VOICE], [VOICE, VOICE]):
        path = write_sound(tmp_path / "a.wav", np.stack(rows), layout="stereo", codec="pcm_f32le")
        np.testing.assert_allclose(heard(path)[0], VOICE, atol=2e-3)


def test_channels_that_cancel_each_other_leave_the_voice(tmp_path):
    path = write_sound(tmp_path / "a.wav", np.stack([VOICE, -VOICE]), layout="stereo", codec="pcm_f32le")
    seen, clip = heard(path)
    assert decibels(seen, VOICE) == pytest.approx(0, abs=0.1)
    assert clip.notes["channels_cancelled"] == 1


def test_weights_follow_the_web_audio_mix():
    five_one = [entry.name for entry in av.AudioLayout("5.1").channels]
    np.testing.assert_allclose(weights_of(five_one)[0], [np.sqrt(0.5)] * 2 + [1, 0, 0.5, 0.5])
    np.testing.assert_allclose(weights_of(["FL", "FR", "LFE"])[0], [0.5, 0.5, 0])
    np.testing.assert_allclose(weights_of(["AMBI0", "FL"])[0], [1, 1])
    assert set(WEIGHTS) >= {entry.name for entry in av.AudioLayout("22.2").channels}


def test_what_no_channel_holds_is_silence():
    samples, _ = combine(np.zeros((2, 100), np.float32), np.zeros(2), are_speakers=False)
    assert not samples.any()


def test_a_sample_rate_that_cannot_be_is_refused(tmp_path):
    data = bytearray(write_sound(tmp_path / "a.wav", VOICE).read_bytes())
    position = data.index(b"fmt ") + 12
    data[position : position + 4] = (1).to_bytes(4, "little")
    clip = decode(None, "waveform", audio=bytes(data))
    assert "a sample rate of 1 Hz" in clip.failed["waveform"]


@pytest.mark.parametrize(
    "layouts", [("stereo", "5.1"), ("5.1", "stereo"), ("mono", "5.1"), ("stereo", "5.1", "stereo")]
)
def test_a_change_of_layout_as_on_television_keeps_the_voice(tmp_path, layouts):
    """AC-3 frames stand alone, so that files of several layouts can be joined."""
    voice = sine(1.0, 440, 0.3, rate_hz=48000)
    for number, layout in enumerate(layouts):
        rows = in_channel(layout, {"stereo": "FR"}.get(layout, "FC"), voice)
        write_sound(tmp_path / f"{number}.ac3", rows, layout=layout, codec="ac3", rate_hz=48000)
    joined = b"".join((tmp_path / f"{number}.ac3").read_bytes() for number in range(len(layouts)))
    (tmp_path / "all.ac3").write_bytes(joined)
    seen, _ = heard(tmp_path / "all.ac3")
    for number in range(len(layouts)):
        middle = seen[int((number + 0.3) * RATE_HZ) : int((number + 0.7) * RATE_HZ)]
        assert level(middle) == pytest.approx(level(voice), rel=0.2)
