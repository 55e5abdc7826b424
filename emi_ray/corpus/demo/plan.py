"""Plan the content of each clip of the demo corpus, before anything is rendered."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from emi_ray.corpus.demo.labels import EXCITEMENT_JOY_CORRELATION, draw_num_raters, rate
from emi_ray.corpus.demo.words import speak
from emi_ray.schema import EMOTIONS, MODALITIES, SPLITS, Modality, Split

FIDELITY: dict[Modality, float] = {"text": 0.77, "audio": 0.64, "vision": 0.45, "motion": 0.37}
"""Correlation of each modality's cues with the intensities that they express."""

SPLIT_SHARES: dict[Split, float] = {"train": 0.6, "val": 0.3, "test": 0.1}
MISSING_TRANSCRIPT_SHARE = 0.06
MEDIAN_DURATION_S, DURATION_SIGMA = 2.5, 0.8
SHORTEST_S, LONGEST_S = 0.4, 18.0

_DECIMALS = 6
"""Number of decimals of drawn values. Further digits of linear algebra depend on the number of threads."""


@dataclass(frozen=True)
class ClipPlan:
    """One clip to render.

    Attributes:
        transcript: None if it is missing.
        labels: (6,) fractions of ``num_raters``; drawn for test clips too, but not published.
        intensity: (6,) standard normal, how strongly the person feels each emotion; the labels rate it.
        cues: modality → (6,) standard normal, how strongly it expresses each emotion.
        seed: seed of everything without information on the labels: appearance, voice, words, timing.
    """

    clip_id: str
    split: Split
    duration_s: float
    transcript: str | None
    labels: tuple[float, ...]
    num_raters: int
    intensity: tuple[float, ...]
    cues: Mapping[Modality, tuple[float, ...]]
    seed: tuple[int, int]


def draw_clips(num_clips: int, seed: int) -> list[ClipPlan]:
    """Plan a whole corpus; the plans depend only on the arguments. Nothing is rendered.

    Within each split, the intensities and the random part of each modality are whitened (mean 0, variance 1,
    uncorrelated), so that a corpus of a few hundred clips shows the planted correlations and not random ones.
    Splits with fewer than 100 clips are not whitened.
    """
    rng = np.random.default_rng([seed, num_clips])
    splits = _draw_splits(num_clips, rng)
    durations_s = _draw_durations_s(num_clips, rng)
    num_raters = draw_num_raters(num_clips, rng)
    missing = rng.random(num_clips) < MISSING_TRANSCRIPT_SHARE
    intensity, *chance = _draw_factors(splits, rng)
    cues = {m: _show(intensity, noise, FIDELITY[m]) for m, noise in zip(MODALITIES, chance, strict=True)}
    labels = rate(intensity, num_raters)
    return [
        ClipPlan(
            clip_id=f"demo_{i:05d}",
            split=splits[i],
            duration_s=round(float(durations_s[i]), 3),
            transcript=None if missing[i] else _transcript(cues["text"][i], durations_s[i], [seed, i]),
            labels=tuple(labels[i].tolist()),
            num_raters=int(num_raters[i]),
            intensity=tuple(intensity[i].tolist()),
            cues={modality: tuple(cues[modality][i].tolist()) for modality in MODALITIES},
            seed=(seed, i),
        )
        for i in range(num_clips)
    ]


def _draw_splits(num_clips: int, rng: np.random.Generator) -> list[Split]:
    bounds = np.cumsum([SPLIT_SHARES[split] for split in SPLITS])
    place = np.searchsorted(bounds, (np.arange(num_clips) + 0.5) / max(num_clips, 1))
    return [SPLITS[k] for k in rng.permutation(np.minimum(place, len(SPLITS) - 1))]


def _draw_durations_s(num_clips: int, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.lognormal(np.log(MEDIAN_DURATION_S), DURATION_SIGMA, num_clips)
    return np.clip(drawn, SHORTEST_S, LONGEST_S)


def _draw_factors(splits: list[Split], rng: np.random.Generator) -> np.ndarray:
    """Draw (5, N, 6) standard normal values: the intensities, and the random part of each modality."""
    num_factors = len(MODALITIES) + 1
    flat = rng.standard_normal((len(splits), num_factors * len(EMOTIONS)))
    for split in SPLITS:
        members = np.array([name == split for name in splits])
        if members.sum() >= 100:
            flat[members] = _whiten(flat[members])
    factors = flat.reshape(-1, num_factors, len(EMOTIONS))
    excitement, joy, rho = EMOTIONS.index("Excitement"), EMOTIONS.index("Joy"), EXCITEMENT_JOY_CORRELATION
    factors[..., joy] = rho * factors[..., excitement] + np.sqrt(1 - rho**2) * factors[..., joy]
    return np.round(factors, _DECIMALS).transpose(1, 0, 2)


def _whiten(sample: np.ndarray) -> np.ndarray:
    """Transform the sample (N, D) to mean 0 and covariance I exactly."""
    centred = sample - sample.mean(axis=0)
    factor = np.linalg.cholesky(centred.T @ centred / len(centred))
    whitened: np.ndarray = np.linalg.solve(factor, centred.T).T
    return whitened


def _show(intensity: np.ndarray, chance: np.ndarray, fidelity: float) -> np.ndarray:
    return np.round(fidelity * intensity + np.sqrt(1 - fidelity**2) * chance, _DECIMALS)


def _transcript(cues: np.ndarray, duration_s: float, seed: list[int]) -> str:
    return speak(cues, duration_s, np.random.default_rng([*seed, 1]))
