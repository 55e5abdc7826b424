"""Extracted features for your own work: as NumPy arrays, a data frame, a torch or a Hugging Face data set."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from emi_ray.schema import Modality, require_modality
from emi_ray.store.feature_layout import steps_of
from emi_ray.store.feature_store import FeatureStore, find_store
from emi_ray.workspace import Workspace, WorkspaceLike, workspace_of

if TYPE_CHECKING:
    from datasets import Dataset as HuggingFaceDataset
    from torch.utils.data import Dataset as TorchDataset


def read_features(workspace: WorkspaceLike, modality: Modality, extractor: str | None = None) -> "FeatureSet":
    """Return the features of one modality of a workspace.

    Args:
        extractor: name of the extractor; required if several have been used.

    Raises:
        UserError: there are none, or several sets of them.

    Examples:
        >>> features = emi_ray.read_features("work", "text")
        >>> len(features), features["clip00"].shape
        (48, (1, 4096))
    """
    require_modality(modality)
    target = workspace_of(workspace)
    target.config()  # says so if there is no workspace
    return FeatureSet(target, find_store(target, modality, extractor=extractor))


class FeatureSet(Mapping[str, np.ndarray]):
    """Features (num_steps, feature_dim) by clip id. They are read from the store on first use, and then kept in
    memory.

    Clips without features, for example quarantined ones, are not included.
    """

    def __init__(self, workspace: Workspace, store: FeatureStore) -> None:
        self._workspace = workspace
        self._store = store
        self._tables: list[pa.Table] | None = None
        self._place: dict[str, tuple[int, int]] = {}

    @property
    def description(self) -> dict[str, Any]:
        """The identity of the extractor: ``extractor``, ``settings``, ``fingerprint``, ``feature_dim``, …"""
        return self._store.describe()

    def __repr__(self) -> str:
        told = self.description
        return f"FeatureSet({self._store.modality}, {told['extractor']}, feature_dim={told['feature_dim']})"

    def __getitem__(self, clip_id: str) -> np.ndarray:
        tables = self._read()
        if clip_id not in self._place:
            raise KeyError(f"clip '{clip_id}' has no {self._store.modality} features")
        table, row = self._place[clip_id]
        return steps_of(tables[table].slice(row, 1))

    def timestamps_s(self, clip_id: str) -> np.ndarray:
        """Return the seconds from the start of the clip to the middle of each step, (num_steps,)."""
        tables = self._read()
        table, row = self._place[clip_id]
        stamps: np.ndarray = tables[table].slice(row, 1)["timestamps_s"].combine_chunks().flatten().to_numpy()
        return stamps

    def __iter__(self) -> Iterator[str]:
        self._read()
        return iter(self._place)

    def __len__(self) -> int:
        self._read()
        return len(self._place)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per clip, in the order of the corpus: ``clip_id``, ``split``, the labels, and the array
        ``features``.

        Examples:
            >>> emi_ray.read_features("work", "text").to_pandas()["features"][0].shape
            (1, 4096)
        """
        rows = self._rows()
        frame = rows.to_pandas()
        frame["features"] = [self[clip_id] for clip_id in frame["clip_id"]]
        return frame

    def to_torch(self, split: str | None = None) -> "TorchDataset[dict[str, Any]]":
        """Return a map-style data set with ``clip_id``, ``features`` (num_steps, feature_dim) and ``labels``
        (num_labels,).

        Args:
            split: by default all splits.

        Examples:
            >>> item = emi_ray.read_features("work", "text").to_torch("val")[0]
            >>> item["features"].shape, item["labels"].shape
            (torch.Size([1, 4096]), torch.Size([2]))
        """
        from torch import tensor
        from torch.utils.data import Dataset

        rows, features = self._rows(split), self
        ids = rows["clip_id"].to_pylist()
        # After clip_id and split come the labels.
        names = rows.column_names[2:]
        labels = (
            np.column_stack([rows[name].to_numpy() for name in names]) if names else np.zeros((len(ids), 0))
        )

        class Clips(Dataset[dict[str, Any]]):
            def __len__(self) -> int:
                return len(ids)

            def __getitem__(self, index: int) -> dict[str, Any]:
                # Features may be stored as float16, labels as float64.
                values = tensor(features[ids[index]]).float()
                return {"clip_id": ids[index], "features": values, "labels": tensor(labels[index]).float()}

        return Clips()

    def to_datasets(self, split: str | None = None) -> "HuggingFaceDataset":
        """Return a Hugging Face ``datasets.Dataset`` with ``clip_id``, ``split``, the labels, and ``features`` as
        lists.

        Args:
            split: by default all splits.

        Raises:
            ImportError: the package ``datasets`` is not installed.
        """
        from datasets import Dataset

        rows = self._rows(split)
        values = [self[clip_id].astype(np.float32).tolist() for clip_id in rows["clip_id"].to_pylist()]
        return Dataset(rows.append_column("features", pa.array(values, pa.list_(pa.list_(pa.float32())))))

    def _rows(self, split: str | None = None) -> pa.Table:
        """Return ``clip_id``, ``split`` and labels of the clips with features, in the order of the corpus."""
        from emi_ray.schema import labels_of

        # The rows follow the corpus and not the store, whose order depends on the extraction.
        clips = self._workspace.clips()
        clips = clips.select(["clip_id", "split", *(label.name for label in labels_of(clips.schema))])
        wanted = [
            clip_id in self and split in (None, own)
            for clip_id, own in zip(clips["clip_id"].to_pylist(), clips["split"].to_pylist(), strict=True)
        ]
        return clips.filter(pa.array(wanted, pa.bool_()))

    def _read(self) -> list[pa.Table]:
        if self._tables is None:
            self._tables = list(self._store.tables())
            # Tables stay as they were read, with an index of their clips, so nothing is copied until it is asked for.
            self._place = {
                clip_id: (index, row)
                for index, table in enumerate(self._tables)
                for row, clip_id in enumerate(table["clip_id"].to_pylist())
            }
        return self._tables
