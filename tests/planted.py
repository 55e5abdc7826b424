"""Small made-up corpora whose features carry the labels: text more than audio, vision and motion."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from emi_ray.config import WorkspaceConfig
from emi_ray.schema import EMOTION_LABELS, MODALITIES, Label, Modality, clips_schema
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.data.clip_data import ClipData, from_arrays
from emi_ray.workspace import Workspace

DIMS: Mapping[Modality, int] = {"text": 64, "audio": 24, "vision": 32, "motion": 12}
STEPS: Mapping[Modality, int] = {"text": 1, "audio": 30, "vision": 10, "motion": 10}
SIGNAL: Mapping[Modality, float] = {"text": 1.0, "audio": 0.7, "vision": 0.5, "motion": 0.35}


def planted_features(
    targets: np.ndarray,
    seed: int,
    dims: Mapping[Modality, int] = DIMS,
    steps: Mapping[Modality, int] = STEPS,
    missing: Mapping[Modality, float] | None = None,
) -> dict[Modality, list[np.ndarray | None]]:
    """For each modality one (T, D) float16 array a clip: labels through a random map, plus noise."""
    random = np.random.default_rng(seed)
    missing = {"text": 0.06} if missing is None else missing
    features: dict[Modality, list[np.ndarray | None]] = {}
    for modality in dims:
        width, typical = dims[modality], steps[modality]
        mixing = random.normal(size=(targets.shape[1], width))
        offsets = SIGNAL[modality] * targets @ mixing + random.normal(0, 0.6, (len(targets), width))
        lengths = [1 if typical == 1 else int(random.lognormal(np.log(typical), 0.6)) + 1 for _ in targets]
        gone = random.random(len(targets)) < missing.get(modality, 0.0)
        features[modality] = [
            None if gone[i] else (random.normal(size=(lengths[i], width)) + offsets[i]).astype(np.float16)
            for i in range(len(targets))
        ]
    return features


def planted_targets(num_clips: int, num_labels: int, seed: int) -> np.ndarray:
    """(N, L) in [0, 1], half of them zero."""
    return np.random.default_rng([seed, 1]).normal(0, 0.4, (num_clips, num_labels)).clip(0, 1)


def planted_data(
    num_train: int = 96,
    num_val: int = 48,
    labels: Sequence[Label] = EMOTION_LABELS,
    modalities: Sequence[Modality] = MODALITIES,
    seed: int = 0,
    steps: Mapping[Modality, int] = STEPS,
) -> ClipData:
    targets = planted_targets(num_train + num_val, len(labels), seed)
    dims = {modality: DIMS[modality] for modality in modalities}
    splits = ["train"] * num_train + ["val"] * num_val
    return from_arrays(planted_features(targets, seed, dims, steps), targets, splits, labels)


def planted_workspace(
    root: Path,
    num_train: int = 96,
    num_val: int = 48,
    num_test: int = 8,
    dims: Mapping[Modality, int] = DIMS,
    steps: Mapping[Modality, int] = STEPS,
    seed: int = 0,
) -> Workspace:
    """A workspace with a corpus and one feature store a modality, as extraction leaves them."""
    workspace = Workspace(str(root))
    workspace.write_config(WorkspaceConfig())
    num_clips = num_train + num_val + num_test
    targets = planted_targets(num_clips, len(EMOTION_LABELS), seed)
    ids = [f"{index:05d}" for index in range(num_clips)]
    rows = []
    for index, clip_id in enumerate(ids):
        split = "train" if index < num_train else "val" if index < num_train + num_val else "test"
        known = targets[index] if split != "test" else [None] * len(EMOTION_LABELS)
        names = [label.name for label in EMOTION_LABELS]
        rows.append({"clip_id": clip_id, "split": split, **dict(zip(names, known, strict=True))})
    workspace.write_table("clips.parquet", pa.Table.from_pylist(rows, schema=clips_schema(EMOTION_LABELS)))
    for modality, sequences in planted_features(targets, seed, dims, steps).items():
        store = FeatureStore(workspace, modality, f"made{modality[0]}{seed:04d}")
        store.create({"extractor": f"planted-{modality}", "modality": modality}, dims[modality])
        clips = [
            ClipFeatures(clip_id, values, np.arange(len(values), dtype=np.float32), {})
            for clip_id, values in zip(ids, sequences, strict=True)
            if values is not None
        ]
        for start in range(0, len(clips), 64):
            store.write(clips[start : start + 64])
    return workspace
