"""Predict emotion intensities from the built-in text features by ridge regression.

    python benchmarks/text_features.py --tweets FOLDER --dims 768 4096 16384

FOLDER holds the public files of the shared task EmoInt 2017 (Mohammad and Bravo-Marquez), as in the repository
SEERNET/EmoInt under `emoint/resources/emoint`: `joy-ratings-0to1.train.txt`, `joy-ratings-0to1.dev.gold.txt`, and so
on for anger, fear and sadness. Train and dev are pooled; each third is predicted from the other two, and the strength
of the ridge is chosen by five folds of these. Pearson's r of each emotion, and the mean.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from emi_ray.extractors.builtin.text import HashedNgrams, HashedNgramsSettings
from emi_ray.media.clip import DecodedClip

EMOTIONS = ("anger", "fear", "joy", "sadness")
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

Weighting = Callable[[np.ndarray], np.ndarray]
"""Features of the training texts (N, D) → a weight of each dimension, (D,)."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tweets", type=Path, required=True)
    parser.add_argument("--dims", type=int, nargs="+", default=[768, 4096, 16384])
    options = parser.parse_args()
    corpora = [read(options.tweets, emotion) for emotion in EMOTIONS]
    print(f"{'features':<28}" + "".join(f"{name:>9}" for name in (*EMOTIONS, "mean")))
    for dim in options.dims:
        features = [embed(texts, dim) for texts, _ in corpora]
        for name, weighting in {"": even, "x idf of train": idf, "/ sd of train": inverse_sd}.items():
            found = [score(x, y, weighting) for x, (_, y) in zip(features, corpora, strict=True)]
            line = "".join(f"{r:>9.3f}" for r in (*found, np.mean(found)))
            print(f"{f'hashed {dim} {name}':<28}{line}", flush=True)


def read(folder: Path, emotion: str) -> tuple[list[str], np.ndarray]:
    """Return the texts and intensities of an emotion, train and dev together."""
    lines = [
        line.split("\t")
        for part in ("train", "dev.gold")
        for line in (folder / f"{emotion}-ratings-0to1.{part}.txt").read_text().splitlines()
    ]
    return [line[1] for line in lines], np.array([float(line[3]) for line in lines])


def embed(texts: list[str], dim: int) -> np.ndarray:
    extractor = HashedNgrams(HashedNgramsSettings(dim=dim))
    clips = [DecodedClip(str(row), transcript=text) for row, text in enumerate(texts)]
    return np.concatenate([features.values for features in extractor.extract(clips)]).astype(np.float64)


def even(x: np.ndarray) -> np.ndarray:
    return np.ones(x.shape[1])


def idf(x: np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.log((1 + len(x)) / (1 + (x != 0).sum(axis=0))) + 1
    return weights


def inverse_sd(x: np.ndarray) -> np.ndarray:
    deviation = x.std(axis=0)
    return 1 / np.where(deviation > 0, deviation, np.inf)


def score(x: np.ndarray, y: np.ndarray, weighting: Weighting) -> float:
    third = np.random.default_rng(1).permutation(len(y)) % 3
    said = np.empty(len(y))
    for part in range(3):
        own = third == part
        scaled = x * weighting(x[~own])
        scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
        said[own] = ridge(scaled[~own], y[~own], scaled[own])
    return float(np.corrcoef(said, y)[0, 1])


def ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predict ``new`` by ridge regression; five-fold cross-validation on ``x`` chooses the strength."""
    kernel, fold = x @ x.T, np.random.default_rng(0).permutation(len(y)) % 5

    def fit(rows: np.ndarray, strength: float) -> np.ndarray:
        inner = kernel[np.ix_(rows, rows)] + strength * np.eye(rows.sum())
        solved: np.ndarray = np.linalg.solve(inner, y[rows] - y[rows].mean())
        return solved

    def unseen(strength: float) -> float:
        said = np.empty(len(y))
        for part in range(5):
            rows = fold != part
            said[~rows] = kernel[np.ix_(~rows, rows)] @ fit(rows, strength) + y[rows].mean()
        return float(np.corrcoef(said, y)[0, 1])

    weights = fit(np.ones(len(y), bool), max(STRENGTHS, key=unseen))
    found: np.ndarray = new @ x.T @ weights + y.mean()
    return found


if __name__ == "__main__":
    main()
