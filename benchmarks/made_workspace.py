"""A workspace of simulated features, in the state in which an extraction would leave it."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from emi_ray.config import WorkspaceConfig
from emi_ray.schema import clips_schema
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.data.clip_data import ClipData
from emi_ray.workspace import Workspace


def write_workspace(data: ClipData, folder: Path) -> Workspace:
    """Write the configuration, ``clips.parquet`` and one feature store per modality."""
    workspace = Workspace(str(folder))
    workspace.write_config(WorkspaceConfig())
    names = [label.name for label in data.labels]
    clips = [
        {"clip_id": clip_id, "split": split, **dict(zip(names, map(float, targets), strict=True))}
        for clip_id, split, targets in zip(
            data.clip_ids.tolist(), data.splits.tolist(), data.targets, strict=True
        )
    ]
    workspace.write_table("clips.parquet", pa.Table.from_pylist(clips, schema=clips_schema(data.labels)))
    for modality, packed in data.features.items():
        store = FeatureStore(workspace, modality, "made")
        store.create({"extractor": "made"}, packed.feature_dim)
        rows = [
            ClipFeatures(data.clip_ids[row], packed.of(row), np.zeros(packed.lengths[row], np.float32), {})
            for row in np.flatnonzero(packed.present)
        ]
        for start in range(0, len(rows), 128):
            store.write(rows[start : start + 128])
    return workspace
