"""The vocabulary, and the Arrow schemas of every table that the parts exchange."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import pyarrow as pa

Modality = Literal["text", "audio", "vision", "motion"]
Split = Literal["train", "val", "test"]
Need = Literal["frames", "faces", "waveform", "transcript", "openface_csv", "video"]

MODALITIES: tuple[Modality, ...] = get_args(Modality)
SPLITS: tuple[Split, ...] = get_args(Split)
NEEDS: tuple[Need, ...] = get_args(Need)

EMOTIONS = ("Admiration", "Amusement", "Determination", "Empathic Pain", "Excitement", "Joy")
"""The six of the Hume-ABAW EMI task, in the order and spelling of its CSV files."""


@dataclass(frozen=True)
class Label:
    """One target: its name and the range [low, high] of its values."""

    name: str
    low: float = 0.0
    high: float = 1.0


EMOTION_LABELS = tuple(Label(name) for name in EMOTIONS)


def snake(name: str) -> str:
    """``Empathic Pain`` → ``empathic_pain``, as score names spell labels."""
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


MEDIA_COLUMNS = ("video", "audio", "transcript", "faces_dir", "openface_csv")
"""What a clip may come with: paths or URIs, and the transcript itself. Null where there is none."""

_CLIP_FIELDS = [
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    *(pa.field(name, pa.string()) for name in MEDIA_COLUMNS),
]

RESERVED_COLUMNS = tuple(field.name for field in _CLIP_FIELDS)
"""Names that a label may not have."""


def clips_schema(labels: Sequence[Label]) -> pa.Schema:
    """Schema of ``clips.parquet``: one row a clip, one float64 column a label (null where unlabelled)."""
    fields = _CLIP_FIELDS + [pa.field(label.name, pa.float64()) for label in labels]
    return pa.schema(fields, metadata={"emi_ray.labels": json.dumps([asdict(label) for label in labels])})


def labels_of(schema: pa.Schema) -> tuple[Label, ...]:
    """The labels that a ``clips.parquet`` schema carries."""
    return tuple(Label(**label) for label in json.loads((schema.metadata or {})[b"emi_ray.labels"]))


def features_schema(feature_dim: int, extras: Sequence[str], metadata: Mapping[str, str]) -> pa.Schema:
    """Schema of one feature file: one row a clip.

    ``features`` is (num_steps, feature_dim) as a list of fixed-size float16 lists, which pandas, DuckDB and
    ``datasets`` read as they stand; ``timestamps_s`` and each of ``extras`` is (num_steps,).
    """
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("num_steps", pa.int32(), nullable=False),
            pa.field("features", pa.large_list(pa.list_(pa.float16(), feature_dim)), nullable=False),
            pa.field("timestamps_s", pa.list_(pa.float32()), nullable=False),
            *(pa.field(name, pa.list_(pa.float32()), nullable=False) for name in extras),
        ],
        metadata=dict(metadata),
    )


FAILURES_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
    ]
)
"""Who was quarantined, and why: stage ``missing`` means that the clip lacks the input."""
