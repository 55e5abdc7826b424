"""Compare our pitch with librosa's: error in noise, and processor time for ten seconds of audio.

    OMP_NUM_THREADS=1 python benchmarks/pitch.py

The voice glides by an octave, so that the true pitch is known at every moment. Errors are the median in cents, and
the share of steps that are off by more than half a semitone.
"""

import time
from collections.abc import Callable

import librosa
import numpy as np

from emi_ray.extractors.builtin.sound.pitch import estimate_pitch

RATE_HZ, HOP, WINDOW, SECONDS = 16_000, 320, 1024, 10
LOW_HZ, HIGH_HZ = 60, 500


def main() -> None:
    clock = np.arange(SECONDS * RATE_HZ) / RATE_HZ
    true_hz = 150 * 2 ** (0.5 * np.sin(2 * np.pi * 0.3 * clock))
    phase = 2 * np.pi * np.cumsum(true_hz) / RATE_HZ
    voice = sum(np.sin(k * phase) / k for k in range(1, 15))
    voice *= 0.1 / np.abs(voice).max()
    random = np.random.default_rng(0)
    print(f"{'SNR dB':>7} {'estimator':<14} {'cents':>7} {'off':>7} {'ms':>8} {'first ms':>9}")
    for snr_db in (40, 10, 0):
        noise = random.normal(0, voice.std() * 10 ** (-snr_db / 20), len(voice))
        sound = (voice + noise).astype(np.float32)
        for name, work in estimators(sound).items():
            began = time.perf_counter()
            found = work()
            first_ms = 1000 * (time.perf_counter() - began)
            moments = (np.arange(len(found)) * HOP).clip(0, len(true_hz) - 1)
            with np.errstate(invalid="ignore"):
                cents = 1200 * np.abs(np.log2(found / true_hz[moments]))
            off = np.nanmean(np.where(np.isnan(cents), np.nan, cents > 50))
            print(
                f"{snr_db:>7} {name:<14} {np.nanmedian(cents):>7.1f} {off:>7.1%} {milliseconds(work):>8.1f} "
                f"{first_ms:>9.0f}"
            )


def estimators(sound: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Return by name the functions that estimate f0 in Hz every 20 ms; all are centred on multiples of the hop."""
    halved = (sound[0::2] + sound[1::2]) / 2
    centred = np.pad(halved, WINDOW // 4)
    windows = np.lib.stride_tricks.sliding_window_view(centred, WINDOW // 2)[:: HOP // 2]
    limits = {"fmin": LOW_HZ, "fmax": HIGH_HZ}
    whole = {**limits, "sr": RATE_HZ, "frame_length": WINDOW, "hop_length": HOP}
    half = {**limits, "sr": RATE_HZ // 2, "frame_length": WINDOW // 2, "hop_length": HOP // 2}
    return {
        "ours": lambda: estimate_pitch(windows, RATE_HZ / 2, LOW_HZ, HIGH_HZ).f0_hz,
        "yin, 16 kHz": lambda: librosa.yin(sound, **whole),
        "yin, 8 kHz": lambda: librosa.yin(halved, **half),
        "pyin, 16 kHz": lambda: librosa.pyin(sound, **whole)[0],
    }


def milliseconds(work: Callable[[], object], calls: int = 3) -> float:
    """Return the least processor time of a few calls."""
    times = []
    for _ in range(calls):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return 1000 * min(times)


if __name__ == "__main__":
    main()
