"""A workspace as a small study would leave it, with made-up numbers: 300 clips, four modalities."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from emi_ray.config import CorpusSettings, WorkspaceConfig
from emi_ray.metrics import compute_scores
from emi_ray.schema import EMOTION_LABELS, EMOTIONS, Modality, clips_schema
from emi_ray.store.failures import Failure, write_failures
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import Workspace

NUM_CLIPS = 300
NUM_TRAIN, NUM_VAL = 180, 80
HOSTILE_ID = "<script>alert('id')</script>"
HOSTILE_REASON = "container <img src=x onerror=alert(1)> & \x00 broken after 12 packets"

_ZERO_SHARES = np.array([0.55, 0.63, 0.68, 0.9, 0.62, 0.68])
_MEAN_STEPS: dict[Modality, float] = {"text": 1, "audio": 350, "vision": 40, "motion": 40}
_SKILL = {"text": 0.6, "audio": 0.5, "vision": 0.25, "motion": 0.2, "fusion": 0.75}


def write_corpus(root: Path, kind: str = "demo") -> Workspace:
    """Configuration and ``clips.parquet`` only."""
    workspace = Workspace(str(root))
    workspace.write_config(WorkspaceConfig(corpus=CorpusSettings(kind=kind, source="/clips")))  # type: ignore[arg-type]
    ids, splits, labels = clip_ids(), _splits(), _labels()
    columns = {
        "clip_id": ids,
        "group": pa.nulls(len(ids), pa.string()),
        "split": splits,
        "video": [f"/clips/{name}.mp4" for name in ids],
        "audio": [None] * NUM_CLIPS,
        "transcript": [None if index % 16 == 3 else "so happy for you" for index in range(NUM_CLIPS)],
        "faces_dir": [None] * NUM_CLIPS,
        "openface_csv": [None] * NUM_CLIPS,
    }
    for index, emotion in enumerate(EMOTIONS):
        columns[emotion] = [
            None if split == "test" else float(value)
            for split, value in zip(splits, labels[:, index], strict=True)
        ]
    workspace.write_table("clips.parquet", pa.table(columns, schema=clips_schema(EMOTION_LABELS)))
    return workspace


def add_features(workspace: Workspace) -> None:
    """Features of every modality; text is missing for a sixteenth, a few audio and vision clips failed."""
    rng = np.random.default_rng(1)
    for modality, mean_steps in _MEAN_STEPS.items():
        name = {"text": "hashed-ngrams", "audio": "prosody", "vision": "appearance", "motion": "flow"}[
            modality
        ]
        store = FeatureStore(workspace, modality, f"{modality[0]}0a1b2c3d4e5")
        store.create({"extractor": name, "modality": modality, "version": 1, "settings": {"x": 1}}, 4)
        failures = _failures(store)
        failed = {failure.clip_id for failure in failures}
        lengths = (
            rng.lognormal(np.log(mean_steps), 0.5, NUM_CLIPS).astype(int)
            if mean_steps > 1
            else [1] * NUM_CLIPS
        )
        rows = [
            ClipFeatures(clip_id, np.zeros((length, 4)), np.arange(length) / 6, {})
            for clip_id, length in zip(clip_ids(), np.maximum(lengths, 1), strict=True)
            if clip_id not in failed
        ]
        store.write(rows[: len(rows) // 2])
        store.write(rows[len(rows) // 2 :])
        write_failures(workspace, failures)


def add_run(
    workspace: Workspace, recipe: str, seed: int, modalities: Sequence[Modality], skill: float = 1.0
) -> None:
    """A finished run of a fusion of ``modalities``, or of the one."""
    folder = f"runs/{recipe}/{seed}"
    stages = {modality: _scores(_SKILL[modality] * skill, seed) for modality in modalities}
    said = [_stage_table(modality, _SKILL[modality] * skill, seed) for modality in modalities]
    workspace.write_table(f"{folder}/stages.parquet", pa.concat_tables(said))
    final = "fusion" if len(modalities) > 1 else modalities[0]
    predicted, true, is_val = (
        _predictions(_SKILL[final] * skill, seed),
        _labels(),
        np.array(_splits()) == "val",
    )
    metrics = {
        "recipe": recipe,
        "seed": seed,
        **_scores(_SKILL[final] * skill, seed),
        "seconds": 61.5,
        "stages": stages,
    }
    workspace.write_json(f"{folder}/metrics.json", metrics)
    workspace.write_text(
        f"{folder}/history.csv", _history([*modalities, *(["fusion"] if len(modalities) > 1 else [])], seed)
    )
    table = {"clip_id": np.array(clip_ids())[is_val], "split": ["val"] * NUM_VAL}
    table |= {name: predicted[is_val, index] for index, name in enumerate(EMOTIONS)}
    table |= {f"true_{name}": true[is_val, index] for index, name in enumerate(EMOTIONS)}
    workspace.write_table(f"{folder}/predictions.parquet", pa.table(table))
    settings = {
        "name": recipe,
        "title": f"Staged fusion of {' and '.join(modalities)}",
        "paper": {"table": 5, "row": recipe.upper(), "val_pearson": 0.4386},
        "encoders": {modality: {"type": "attention", "hidden": 384} for modality in modalities},
    }
    workspace.write_text(f"{folder}/recipe.yaml", yaml.safe_dump(settings, sort_keys=False))
    workspace.write_json(
        f"{folder}/versions.json", {"python": "3.11.2", "torch": "2.13.0", "emi_ray": "0.1.0"}
    )


def _stage_table(modality: Modality, skill: float, seed: int) -> pa.Table:
    is_val = np.array(_splits()) == "val"
    predicted = _predictions(skill, seed)[is_val]
    columns = {"clip_id": np.array(clip_ids())[is_val].tolist(), "stage": [modality] * NUM_VAL}
    return pa.table(columns | {name: predicted[:, index] for index, name in enumerate(EMOTIONS)})


def write_full(root: Path, kind: str = "demo") -> Workspace:
    """Everything: two recipes of fusion, one of them with two seeds, and a unimodal one."""
    workspace = write_corpus(root, kind)
    add_features(workspace)
    add_run(workspace, "f2", 42, ["text", "audio", "vision", "motion"])
    add_run(workspace, "f2", 43, ["text", "audio", "vision", "motion"], skill=0.9)
    add_run(workspace, "f1", 42, ["text", "audio", "vision"], skill=0.95)
    add_run(workspace, "audio", 42, ["audio"])
    return workspace


def clip_ids() -> list[str]:
    """The ids of all clips; one of them is an attack on the page."""
    return [HOSTILE_ID, *(f"{index:05d}" for index in range(1, NUM_CLIPS))]


def _splits() -> list[str]:
    return ["train"] * NUM_TRAIN + ["val"] * NUM_VAL + ["test"] * (NUM_CLIPS - NUM_TRAIN - NUM_VAL)


def _labels() -> np.ndarray:
    """(clips, 6) fractions of nine raters, mostly 0."""
    rng = np.random.default_rng(0)
    votes = 1 + rng.binomial(8, 0.35, (NUM_CLIPS, 6))
    return np.where(rng.random((NUM_CLIPS, 6)) < _ZERO_SHARES, 0, votes) / 9


def _predictions(skill: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0.12, 0.12, (NUM_CLIPS, 6))
    return np.clip(skill * 0.6 * _labels() + 0.8 * noise, 0, 1)


def _scores(skill: float, seed: int) -> Mapping[str, float]:
    is_val = np.array(_splits()) == "val"
    return compute_scores(_predictions(skill, seed)[is_val], _labels()[is_val], EMOTION_LABELS)


def _history(stages: Sequence[str], seed: int) -> str:
    rng = np.random.default_rng(seed)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["stage", "epoch", "train_loss", "val_loss", "val_pearson", "lr", "seconds"])
    for stage in stages:
        for epoch in range(1, int(rng.integers(14, 30))):
            rise = 1 - np.exp(-epoch / 5)
            r = _SKILL[stage] * rise * 0.75 - 0.002 * max(0, epoch - 12) + rng.normal(0, 0.006)
            writer.writerow(
                [stage, epoch, 0.7 - 0.4 * rise, 0.7 - 0.25 * rise + rng.normal(0, 0.005), r, 2e-4, 0.8]
            )
    return text.getvalue()


def _failures(store: FeatureStore) -> list[Failure]:
    def failure(clip_id: str, stage: str, error: str) -> Failure:
        return Failure(clip_id, store.modality, store.fingerprint, stage, error)

    ids = clip_ids()
    if store.modality == "text":
        return [failure(ids[i], "missing", "no transcript") for i in range(3, NUM_CLIPS, 16)]
    if store.modality == "audio":
        return [failure(ids[0], "media", HOSTILE_REASON), failure(ids[7], "missing", "no audio stream")]
    if store.modality == "vision":
        return [failure(ids[i], "faces", f"no face in any of {i} frames") for i in (5, 6, 9, 11, 30)]
    return []
