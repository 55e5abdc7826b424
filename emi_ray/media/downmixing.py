"""Mix channels to mono: keep the level of the voice, remove the offset, and stay within full scale."""

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
"""Weight of each loudspeaker in the mix, as browsers mix 5.1 to mono (Web Audio API 1.1, "Channel up-mixing and
down-mixing") and as in ITU-R BS.775: the centre, where voices are, fully, and low-frequency effects not at all.
FFmpeg's own mix divides by the sum of all weights, which makes a voice in the centre 10.7 dB too quiet."""
CANCELLED = 0.3
"""Two channels cancel each other if the level of their sum is below this share of the louder one's (one has the
opposite polarity)."""
AUDIBLE_OFFSET = 5e-3
"""An offset below this share of full scale is removed without a note."""
GLITCHES = 1e-3
"""If at most this share of the samples exceeds full scale, they are clipped, like in a player; if more do, all
samples are scaled down."""


def weights_of(channels: Sequence[str]) -> np.ndarray:
    """Return (2, C): the weight of each channel in the mix, and in the rest that the mix omits.

    Args:
        channels: names such as FL and LFE. If any is not a loudspeaker, all channels have equal weights.
    """
    if any(name not in WEIGHTS for name in channels):
        return np.stack([np.ones(len(channels)), np.zeros(len(channels))])
    mixed = np.array([WEIGHTS[name] for name in channels])
    if "FC" not in channels:
        mixed *= np.sqrt(0.5)  # without a centre, a voice is on both front channels
    return np.stack([mixed, (mixed == 0).astype(float)])


class Levels:
    """The mean and the level (standard deviation) of each of C channels, computed in pieces."""

    def __init__(self, num_channels: int) -> None:
        self._count = 0
        self._sums = np.zeros((2, num_channels))

    def add(self, samples: np.ndarray) -> None:
        """Add a piece (C, N)."""
        self._count += samples.shape[1]
        self._sums += [
            samples.sum(axis=1, dtype=np.float64),
            np.square(samples, dtype=np.float64).sum(axis=1),
        ]

    def of_channels(self) -> np.ndarray:
        """Return the levels (C,)."""
        # Rounding may make the difference slightly negative.
        mean, power = self._sums / max(self._count, 1)
        return np.sqrt(np.maximum(power - mean**2, 0))


def combine(rows: np.ndarray, levels: np.ndarray, are_speakers: bool) -> tuple[np.ndarray, dict[str, int]]:
    """Combine the rows (R, N) to one channel.

    - One row is returned unchanged.
    - More than two loudspeakers: the first row is their mix. The second row has the channels that the mix omits,
      and is used if the mix is silent.
    - Two channels, or any number with unknown positions: their sum divided by their effective number, which is the
      sum of their levels divided by the largest. So equal channels are averaged, and a voice on a single channel
      keeps its level. If two channels cancel each other, the louder one is used.

    Args:
        levels: (C,) levels of the channels that ``rows`` were computed from.
        are_speakers: whether there are more than two channels with known positions.

    Returns:
        Samples (N,), and notes: ``channels_mixed``, ``channels_silent``, ``channels_cancelled``.
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
    # Channels of opposite polarity would cancel the voice in a sum.
    if len(levels) == 2 and total.std() < CANCELLED * loudest:
        return rows[int(levels.argmax())], {**notes, "channels_cancelled": 1}
    return total * np.float32(loudest / levels.sum()), notes


def settle(samples: np.ndarray, filled: Sequence[slice]) -> tuple[np.ndarray, dict[str, int]]:
    """Remove the offset of a waveform (N,) float32 and bring it into [-1, 1].

    Args:
        filled: slices of inserted silence, which are ignored for the offset and stay silent.

    Returns:
        The waveform, and notes: ``offset_removed``, ``sound_scaled``, ``samples_clipped``.
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
    """Return the mean of the real samples; the others are zero. Extreme outliers are clipped first."""
    if np.abs(samples).max() > 1:
        # A few damaged samples far beyond full scale would otherwise determine the mean.
        middle = np.median(samples)
        reach = np.quantile(np.abs(samples - middle), 1 - GLITCHES)
        samples = np.clip(samples, middle - reach, middle + reach)
    return float(samples.sum(dtype=np.float64)) / max(num_real, 1)
