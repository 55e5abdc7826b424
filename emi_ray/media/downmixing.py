"""Channels → one: the voice at the level at which a player gives it, without offset, within full scale."""

from collections.abc import Sequence

import numpy as np

CENTRE = {"FC": 1.0}
FRONT = dict.fromkeys(("FL", "FR", "DL", "DR", "FLC", "FRC", "WL", "WR"), np.sqrt(0.5))
SURROUND = dict.fromkeys(
    (
        "BL",
        "BR",
        "BC",
        "SL",
        "SR",
        "TC",
        "TFL",
        "TFC",
        "TFR",
        "TBL",
        "TBC",
        "TBR",
        "TSL",
        "TSR",
        "BFL",
        "BFC",
        "BFR",
    ),
    0.5,
)
LOW = dict.fromkeys(("LFE", "LFE2"), 0.0)
WEIGHTS = {**CENTRE, **FRONT, **SURROUND, **LOW}
"""What each loudspeaker gives to one channel, as browsers mix 5.1 down (Web Audio API 1.1, "Channel up-mixing and
down-mixing") and as ITU-R BS.775 weighs: the centre, where voices are, in full, and low-frequency effects not at all.
FFmpeg's own mix divides by the sum of all weights, which leaves a voice in the centre 10.7 dB too quiet."""
CANCELLED = 0.3
"""Two channels whose sum is below this share of the louder one's level cancel each other (one is wired inversely)."""
AUDIBLE_OFFSET = 5e-3
"""An offset of less than this share of full scale is removed without a word."""
GLITCHES = 1e-3
"""Where at most this share of the samples is beyond full scale these are clipped, as a player does; where more are,
all are scaled down."""


def weights_of(channels: Sequence[str]) -> np.ndarray:
    """(2, C): the share of each channel in the mix, and in what the mix leaves out.

    Args:
        channels: names such as FL and LFE. Where any is not a loudspeaker's, all count alike.
    """
    if any(name not in WEIGHTS for name in channels):
        return np.stack([np.ones(len(channels)), np.zeros(len(channels))])
    mixed = np.array([WEIGHTS[name] for name in channels])
    if "FC" not in channels:
        mixed *= np.sqrt(0.5)  # a voice is then on both front channels
    return np.stack([mixed, (mixed == 0).astype(float)])


class Levels:
    """The mean and the level (standard deviation) of each channel of a sound that comes in pieces."""

    def __init__(self, num_channels: int) -> None:
        self._count = 0
        self._sums = np.zeros((2, num_channels))

    def add(self, samples: np.ndarray) -> None:
        """Take a piece (C, N)."""
        self._count += samples.shape[1]
        self._sums += [
            samples.sum(axis=1, dtype=np.float64),
            np.square(samples, dtype=np.float64).sum(axis=1),
        ]

    def of_channels(self) -> np.ndarray:
        """(C,)."""
        mean, power = self._sums / max(self._count, 1)
        return np.sqrt(np.maximum(power - mean**2, 0))


def combine(rows: np.ndarray, levels: np.ndarray, are_speakers: bool) -> tuple[np.ndarray, dict[str, int]]:
    """One channel of ``rows`` (R, N).

    - One row is the sound itself.
    - More than two loudspeakers: the first row is their mix; the second, what the mix leaves out, is taken where the
      mix is silent.
    - Two channels, and any number of which nobody says where they belong: their sum over their effective number,
      the sum of their levels over the greatest. Equal channels are thus averaged, and a voice that is on one of them
      alone keeps its level. Two that cancel each other: the louder one.

    Args:
        levels: (C,) of the channels that ``rows`` were made of.
        are_speakers: whether more than two channels have known places.

    Returns:
        Samples (N,), and what was done: ``channels_mixed``, ``channels_silent``, ``channels_cancelled``.
    """
    notes = {"channels_mixed": len(levels) if len(levels) > 2 else 0}
    if len(rows) == 1:
        return rows[0], notes
    if are_speakers:
        return (rows[1] if not rows[0].any() else rows[0]), notes
    loudest = levels.max()
    if not loudest:
        return rows[0], notes
    notes["channels_silent"] = int((levels < 0.01 * loudest).sum())
    total = rows.sum(axis=0)
    if len(levels) == 2 and total.std() < CANCELLED * loudest:
        return rows[int(levels.argmax())], {**notes, "channels_cancelled": 1}
    return total * np.float32(loudest / levels.sum()), notes


def settle(samples: np.ndarray, filled: Sequence[slice]) -> tuple[np.ndarray, dict[str, int]]:
    """A waveform (N,) float32 around zero and within [-1, 1].

    Args:
        filled: where nothing but silence was put in; it has no part in the offset, and stays silent.

    Returns:
        The waveform, and what was done: ``offset_removed``, ``sound_scaled``, ``samples_clipped``.
    """
    num_real = len(samples) - sum(gap.stop - gap.start for gap in filled)
    offset = _offset(samples, num_real)
    samples = samples - np.float32(offset)
    for gap in filled:
        samples[gap] = 0
    beyond = int((np.abs(samples) > 1).sum())
    notes = {"offset_removed": int(abs(offset) > AUDIBLE_OFFSET)}
    if beyond > GLITCHES * max(num_real, 1):
        samples /= np.abs(samples).max()
        notes["sound_scaled"] = 1
    elif beyond:
        np.clip(samples, -1, 1, out=samples)
        notes["samples_clipped"] = beyond
    return samples, notes


def _offset(samples: np.ndarray, num_real: int) -> float:
    """Mean of the real samples; the rest is silence. Glitches far beyond all others have no weight in it."""
    if np.abs(samples).max() > 1:
        middle = np.median(samples)
        reach = np.quantile(np.abs(samples - middle), 1 - GLITCHES)
        samples = np.clip(samples, middle - reach, middle + reach)
    return float(samples.sum(dtype=np.float64)) / max(num_real, 1)
