"""Tone mapping: convert images in PQ or HLG (high dynamic range) to standard dynamic range."""

from functools import lru_cache

import cv2
import numpy as np

PQ, HLG = 16, 18
"""Transfer functions by their numbers in ITU-T H.273: SMPTE ST 2084, ARIB STD-B67."""
WHITE_NITS = 203.0
"""Luminance of diffuse white in HDR (ITU-R BT.2408); it becomes the white of SDR."""
HLG_PEAK_NITS = 1000.0
SDR_GAMMA = 2.2
FINE = 4095
"""Steps of the table that converts linear light to code values."""
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
"""Linear BT.2020 → linear BT.709 (ITU-R BT.2087)."""
LUMINANCE = np.array([[0.2627, 0.6780, 0.0593]], np.float32)


class ToneMapper:
    """Maps the frames of one clip. The brightest light so far counts as the clip's peak.

    If nothing in the clip is brighter than white, light is kept unchanged. Otherwise the curve of ITU-R BT.2390
    (section 5.4, EETF) compresses the highlights, so that the peak becomes white. If the peak rises within the
    clip, the curve changes from there on, because measuring the peak in advance would mean decoding twice.

    Args:
        transfer: ``PQ`` or ``HLG``.
    """

    def __init__(self, transfer: int) -> None:
        self._transfer = transfer
        self._peak_nits = WHITE_NITS
        self._gains = _gains(WHITE_NITS)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Convert (H, W, 3) uint16, where 65535 is the largest signal, to (H, W, 3) uint8, BT.709, gamma 2.2."""
        nits = _light(self._transfer)[pixels]
        if self._transfer == HLG:
            # The system gamma of 1.2 applies to luminance (ITU-R BT.2100, HLG OOTF).
            scene = np.maximum(cv2.transform(nits, LUMINANCE), 1e-6)
            nits *= HLG_PEAK_NITS * np.power(scene, np.float32(0.2))[..., np.newaxis]
        brightest = nits.max(axis=2)
        # A percentile of every fourth pixel, so that a few sparkling pixels do not determine the peak.
        self._see(float(np.percentile(brightest[::4, ::4], 99.9)))
        steps = np.minimum(brightest * (FINE / self._peak_nits), FINE).astype(np.uint16)
        light = cv2.transform(nits, TO_BT709) * self._gains[steps][..., np.newaxis]
        return _codes()[np.clip(light * FINE, 0, FINE).astype(np.uint16)]

    def _see(self, nits: float) -> None:
        # Small increases are ignored, because every new curve changes the brightness of the picture.
        if nits > 1.02 * self._peak_nits:
            self._peak_nits = nits
            self._gains = _gains(nits)


def _light(transfer: int) -> np.ndarray:
    return _pq_nits() if transfer == PQ else _hlg_scene()


@lru_cache(maxsize=1)
def _pq_nits() -> np.ndarray:
    """Return the luminance in nits of each 16-bit signal in PQ."""
    return _from_pq(np.linspace(0, 1, 65536)).astype(np.float32)


@lru_cache(maxsize=1)
def _hlg_scene() -> np.ndarray:
    """Return the scene light, at most 1, of each 16-bit signal in HLG (ITU-R BT.2100, inverse OETF)."""
    signal = np.linspace(0, 1, 65536)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)


@lru_cache(maxsize=1)
def _codes() -> np.ndarray:
    """Return the code values of linear light in ``FINE`` steps."""
    return np.round(255 * np.linspace(0, 1, FINE + 1) ** (1 / SDR_GAMMA)).astype(np.uint8)


def _gains(peak_nits: float) -> np.ndarray:
    """Return the factors that map luminance, in ``FINE`` steps up to the peak, to light in which white is 1."""
    nits = np.linspace(0, peak_nits, FINE + 1)
    # The gain divides by the luminance, so that of the first step must not be 0.
    nits[0] = nits[1] / 2
    if peak_nits <= WHITE_NITS:
        return np.full(FINE + 1, 1 / WHITE_NITS, np.float32)
    peak = _to_pq(np.array(peak_nits))
    ceiling = _to_pq(np.array(WHITE_NITS)) / peak
    signal = _to_pq(nits) / peak
    # Knee and Hermite spline of BT.2390, section 5.4, with the peak normalised to 1.
    knee = 1.5 * ceiling - 0.5
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    rolled = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * ceiling
    )
    mapped = _from_pq(np.where(signal < knee, signal, rolled) * peak)
    return (mapped / WHITE_NITS / nits).astype(np.float32)


def _to_pq(nits: np.ndarray) -> np.ndarray:
    m1, m2, c1, c2, c3 = _PQ
    power = (nits / 10000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def _from_pq(signal: np.ndarray) -> np.ndarray:
    m1, m2, c1, c2, c3 = _PQ
    power = signal ** (1 / m2)
    return 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


_PQ = (2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128)
"""m1, m2, c1, c2, c3 of SMPTE ST 2084."""
