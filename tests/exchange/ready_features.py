"""Folders of ready features as other programs leave them."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd

from emi_ray.schema import EMOTIONS
from emi_ray.store.feature_store import find_store
from emi_ray.workspace import Workspace


def halves(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 values that float16 holds exactly."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16).astype(np.float32)


def write_splits(folder: Path, num_train: int, num_val: int) -> None:
    """``train_split.csv`` and ``valid_split.csv`` with ids 00000, 00001, … and random labels."""
    ids = [f"{index:05d}" for index in range(num_train + num_val)]
    labels = np.random.default_rng(1).integers(0, 5, (len(ids), len(EMOTIONS))) / 4
    table = pd.DataFrame({"Filename": ids, **dict(zip(EMOTIONS, labels.T, strict=True))})
    table[:num_train].to_csv(folder / "train_split.csv", index=False)
    table[num_train:].to_csv(folder / "valid_split.csv", index=False)


def write_pickle(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))


def make_peer_folder(folder: Path, num_train: int = 12, num_val: int = 6, num_test: int = 2) -> Path:
    folder.mkdir()
    write_splits(folder, num_train, num_val)
    for index in range(num_train + num_val + num_test):
        name = f"{index:05d}.pkl"
        write_pickle(folder / "embeddings/face" / name, halves(4 + index % 3, 6, seed=index))
        write_pickle(folder / "embeddings/audio" / name, halves(3 + index % 2, 5, seed=100 + index))
        write_pickle(folder / "embeddings/text" / name, halves(8, seed=200 + index))
        write_pickle(folder / "motion" / name, halves(7, 23, seed=300 + index))
    return folder


def npy_folder(tmp_path: Path, arrays: dict[str, np.ndarray]) -> str:
    folder = tmp_path / "arrays"
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return str(folder)


def held(workspace: Workspace, modality: str) -> dict[str, np.ndarray]:
    """The features that a workspace's store has of a modality, by clip."""
    return {row.clip_id: row.values for row in find_store(workspace, modality).rows()}
