"""How well the intensities planted in the demo corpus can be recovered from its media.

Renders the corpus for each seed, decodes it, runs the built-in extractors and fits ridge regressions on the mean
and standard deviation of each clip's features over time: trained on the training split, scored by the mean Pearson
over the six emotions on the validation split. ``planted`` is the score of the planted cues themselves, which a
perfect reader of that modality would reach. ``leakage`` is the Pearson that a modality's features reach for what the
*other* modalities add by chance to the intensity that all show.

    python benchmarks/demo_recoverability.py --seeds 0 1 2 --folder DIR
"""

import argparse
import csv
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict

from emi_ray.config import MediaSettings
from emi_ray.corpus.demo import render_demo
from emi_ray.extractors import EXTRACTORS
from emi_ray.media.decode import decode_clip
from emi_ray.media.source import ClipSource
from emi_ray.schema import EMOTIONS, MODALITIES

BUILT_IN = {"text": "hashed-ngrams", "audio": "prosody", "vision": "appearance", "motion": "flow"}
ALPHAS = np.logspace(-2, 5, 22)
ROWS = (*MODALITIES, "fusion")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clips", type=int, default=480)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, required=True, help="where corpora are rendered and kept")
    options = parser.parse_args()
    tables = []
    for seed in options.seeds:
        corpus = options.folder / f"seed_{seed}"
        render_demo(corpus, options.clips, seed, options.workers)
        tables.append(measure(corpus, options.workers))
    print_table("val Pearson of ridge", options.seeds, [table["ridge"] for table in tables])
    print_table("val Pearson of the planted cues", options.seeds, [table["planted"] for table in tables])
    print_table("leakage: mean r with others' chance", options.seeds, [table["leakage"] for table in tables])
    print("by emotion, mean over seeds:", *EMOTIONS, sep="\t")
    for row in ROWS:
        values = np.mean([table["by_emotion"][row] for table in tables], axis=0)
        print(row, *(f"{value:.2f}" for value in values), sep="\t")
    found = [table["faces_found"] for table in tables]
    print("share of sampled frames in which the face was found:", *(f"{share:.4f}" for share in found))


def measure(corpus: Path, workers: int) -> dict[str, dict]:
    """Return the scores of one corpus by table and row."""
    with (corpus / "clips.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        pooled = list(pool.map(pooled_features, [str(corpus)] * len(rows), rows, chunksize=4))
    planted = json.loads((corpus / "planted.json").read_text())
    labels = np.array([clip["labels"] for clip in planted["clips"]])
    cues = {m: np.array([clip["cues"][m] for clip in planted["clips"]]) for m in MODALITIES}
    intensity = np.array([clip["intensity"] for clip in planted["clips"]])
    chance = {m: cues[m] - planted["fidelity"][m] * intensity for m in MODALITIES}
    train, val = (np.array([row["split"] == split for row in rows]) for split in ("train", "val"))
    features = {m: stack([clip.get(m) for clip, _ in pooled], train) for m in MODALITIES}

    guesses, leakage, out_of_fold = {}, {}, []
    for modality in MODALITIES:
        x = features[modality]
        guesses[modality] = ridge().fit(x[train], labels[train]).predict(x[val])
        folds = KFold(5, shuffle=True, random_state=0)
        out_of_fold.append(cross_val_predict(ridge(), x[train], labels[train], cv=folds))
        others = np.concatenate([chance[other] for other in MODALITIES if other != modality], axis=1)
        leakage[modality] = float(
            np.mean(pearson(ridge().fit(x[train], others[train]).predict(x[val]), others[val]))
        )
    guesses["fusion"] = fuse(np.stack(out_of_fold), labels[train], np.stack(list(guesses.values())))
    best = {m: pearson(cues[m][val], labels[val]) for m in MODALITIES}
    total = sum(r / (1 - r**2) * cues[m][val] for m, r in planted["fidelity"].items())
    best["fusion"] = pearson(total, labels[val])
    scores = {row: pearson(guess, labels[val]) for row, guess in guesses.items()}
    detected = np.array([counts for _, counts in pooled])
    return {
        "ridge": {row: score.mean() for row, score in scores.items()},
        "planted": {row: score.mean() for row, score in best.items()},
        "leakage": leakage,
        "by_emotion": scores,
        "faces_found": float(detected[:, 0].sum() / detected[:, 1].sum()),
    }


def pooled_features(corpus: str, row: dict[str, str]) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """Return mean and SD over time of each modality's features, frames with a face, and all frames."""
    cv2.setNumThreads(1)
    needs = frozenset({"faces", "waveform", "transcript"})
    source = ClipSource(
        row["clip_id"], video=f"{corpus}/{row['video']}", transcript=row["transcript"] or None
    )
    clip = decode_clip(source, MediaSettings(), needs)
    pooled = {}
    for modality, name in BUILT_IN.items():
        kind = EXTRACTORS[name]
        if kind.NEEDS & (set(clip.missing) | set(clip.failed)):
            continue
        values = kind(kind.Settings()).extract([clip])[0].values.astype(np.float32)
        pooled[modality] = (
            np.concatenate([values.mean(0), values.std(0)]) if modality != "text" else values[0] * 10
        )
    return pooled, (clip.notes.get("frames_with_face", 0), clip.notes.get("frames_sampled", 0))


def stack(vectors: list[np.ndarray | None], train: np.ndarray) -> np.ndarray:
    """Standardise by the training split and replace a missing vector by the mean; text keeps its own scale."""
    size = next(len(vector) for vector in vectors if vector is not None)
    table = np.stack([np.full(size, np.nan) if vector is None else vector for vector in vectors])
    mean, std = np.nanmean(table[train], axis=0), np.nanstd(table[train], axis=0)
    scale = np.maximum(std, 1e-4 + std.mean() if size == 768 else 1e-4)
    return np.nan_to_num((table - mean) / scale)


def ridge() -> RidgeCV:
    """Fit ridge regressions whose strength is chosen for each target by its leave-one-out error."""
    return RidgeCV(ALPHAS, alpha_per_target=True)


def fuse(out_of_fold: np.ndarray, labels: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """Fit least squares on out-of-fold predictions; fuse the modalities' predictions (4, N, 6) for each emotion."""
    fused = [
        RidgeCV(ALPHAS).fit(out_of_fold[..., e].T, labels[:, e]).predict(guesses[..., e].T)
        for e in range(len(EMOTIONS))
    ]
    return np.stack(fused, axis=1)


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation (D,) of each column of two arrays (N, D)."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.maximum(np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0)), 1e-12)


def print_table(title: str, seeds: list[int], tables: list[dict[str, float]]) -> None:
    print(title, *(f"seed {seed}" for seed in seeds), "mean", sep="\t")
    for row in tables[0]:
        values = [table[row] for table in tables]
        print(row, *(f"{value:.3f}" for value in values), f"{np.mean(values):.3f}", sep="\t")
    print()


if __name__ == "__main__":
    main()
