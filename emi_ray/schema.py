"""The vocabulary, and the Arrow schemas of every table that the parts exchange."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, get_args

import pyarrow as pa

Modality = Literal["text", "audio", "vision", "motion"]
Split = Literal["train", "val", "test"]
Need = Literal["frames", "faces", "waveform", "transcript", "openface_csv", "video"]

EncoderName = str
"""Name of an encoder of a recipe, and of the features that it reads: a modality, or a name of the recipe's own where
it has several encoders of one modality."""

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
    """``Empathic Pain`` → ``empathic_pain``, as score names spell labels.

    Letters, marks and digits of every script are kept. A name without any, such as an emoji, is spelt by its code
    points: ``u1f602``.
    """
    plain = unicodedata.normalize("NFC", name.lower())
    spelt = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in plain)
    return "_".join(spelt.split()) or "_".join(
        f"u{ord(letter):x}" for letter in plain if not letter.isspace()
    )


MEDIA_COLUMNS = ("video", "audio", "transcript", "faces_dir", "openface_csv")
"""What a clip may come with: paths or URIs, and the transcript itself. Null where there is none."""

GROUP = "group"
"""Column of ``clips.parquet`` that says which clips belong together because one person is in them; null where that is
not known."""

_CLIP_FIELDS = [
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field(GROUP, pa.string()),
    *(pa.field(name, pa.string()) for name in MEDIA_COLUMNS),
]

RESERVED_COLUMNS = tuple(field.name for field in _CLIP_FIELDS)
"""Columns of ``clips.parquet`` that are no labels."""

_TAKEN = frozenset([*RESERVED_COLUMNS, "filename", "mean", "modalities", "scored", "chosen_on_val"])
"""Beside labels, tables of scores and predictions have these columns and rows."""

TRUE_PREFIX = "true_"
"""What precedes a label's name in ``predictions.parquet``, where its true values stand."""


def is_taken(name: str) -> bool:
    """Whether a label cannot have this name, because a column or row beside the labels has it."""
    return snake(name) in _TAKEN or name.lower().startswith(TRUE_PREFIX)


def clips_schema(labels: Sequence[Label]) -> pa.Schema:
    """Schema of ``clips.parquet``: one row a clip, one float64 column a label (null where unlabelled)."""
    fields = _CLIP_FIELDS + [pa.field(label.name, pa.float64()) for label in labels]
    return pa.schema(fields, metadata={"emi_ray.labels": json.dumps([asdict(label) for label in labels])})


def labels_of(schema: pa.Schema) -> tuple[Label, ...]:
    """The labels that a ``clips.parquet`` schema carries."""
    return tuple(Label(**label) for label in json.loads((schema.metadata or {})[b"emi_ray.labels"]))


class Origin(NamedTuple):
    """What one clip's features, transcript or failure was made of.

    Attributes:
        source: hash of the content of the inputs; "" where it is not known.
        stamp: the inputs by column, with size and time of each file, or the hash of a text. Equal stamps mean equal
            inputs without a look into the files; "" where it is not known.
    """

    source: str = ""
    stamp: str = ""


UNKNOWN = Origin()
"""Of what does not say what it was made of."""


def features_schema(dtype: pa.DataType, extras: Sequence[str], metadata: Mapping[str, str]) -> pa.Schema:
    """Schema of one feature file: one row a clip.

    ``features`` is a list of num_steps x feature_dim numbers, step by step, which pandas, DuckDB and ``datasets``
    read as they stand. A list of lists says the same, but took twice the time to read and four times to write.
    ``timestamps_s`` and each of ``extras`` is (num_steps,). ``source`` and ``source_stamp`` are an :class:`Origin`,
    ``digest`` is a hash of the features themselves.
    """
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("num_steps", pa.int32(), nullable=False),
            pa.field("features", pa.large_list(pa.field("item", dtype, nullable=False)), nullable=False),
            pa.field("timestamps_s", pa.list_(pa.float32()), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("source_stamp", pa.string(), nullable=False),
            pa.field("digest", pa.string(), nullable=False),
            *(pa.field(name, pa.list_(pa.float32()), nullable=False) for name in extras),
        ],
        metadata=dict(metadata),
    )


FEATURE_COLUMNS = (
    *("clip_id", "num_steps", "features", "timestamps_s"),
    *("source", "source_stamp", "digest"),
)
"""Columns of every feature file; all others are extras."""

FAILURES_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("source_stamp", pa.string()),
    ]
)
"""Who was quarantined, and why: stage ``missing`` means that the clip lacks the input. ``source`` and
``source_stamp`` are the :class:`Origin` of the attempt; null in files that were written before there was one."""
