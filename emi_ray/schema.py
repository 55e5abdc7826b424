"""The vocabulary, and the Arrow schemas of all tables."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, get_args

import pyarrow as pa

from emi_ray.errors import UserError, choices

Modality = Literal["text", "audio", "vision", "motion"]
Split = Literal["train", "val", "test"]
Need = Literal["frames", "faces", "waveform", "transcript", "openface_csv", "video"]

EncoderName = str
"""Name of an encoder of a recipe, and of the features that it reads: a modality, or another name if the recipe has
several encoders of one modality."""

MODALITIES: tuple[Modality, ...] = get_args(Modality)
SPLITS: tuple[Split, ...] = get_args(Split)
NEEDS: tuple[Need, ...] = get_args(Need)


def require_modality(name: str, where: str = "modality") -> None:
    """Check that there is a modality of this name.

    Args:
        where: the beginning of the message.

    Raises:
        UserError: there is none.
    """
    if name not in MODALITIES:
        raise UserError(f"{where} '{name}': {choices(name, MODALITIES)}")


EMOTIONS = ("Admiration", "Amusement", "Determination", "Empathic Pain", "Excitement", "Joy")
"""The six emotions of the Hume-ABAW EMI task, in the order and spelling of its CSV files."""


@dataclass(frozen=True)
class Label:
    """One target: its name and the range [low, high] of its values."""

    name: str
    low: float = 0.0
    high: float = 1.0


EMOTION_LABELS = tuple(Label(name) for name in EMOTIONS)


def snake(name: str) -> str:
    """Convert a label to the spelling in score names: ``Empathic Pain`` → ``empathic_pain``.

    Letters, marks and digits of every script are kept. A name without any, for example an emoji, is spelt by its
    code points: ``u1f602``.
    """
    # The same accent can be one code point or two; both must give one name.
    plain = unicodedata.normalize("NFC", name.lower())
    spelt = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in plain)
    return "_".join(spelt.split()) or "_".join(
        f"u{ord(letter):x}" for letter in plain if not letter.isspace()
    )


MEDIA_COLUMNS = ("video", "audio", "transcript", "faces_dir", "openface_csv")
"""Media of a clip: paths or URIs, and the text of the transcript. Null if there is none."""

GROUP = "group"
"""Column of ``clips.parquet`` with the person in a clip, to keep clips of a person together; null if unknown."""

_CLIP_FIELDS = [
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field(GROUP, pa.string()),
    *(pa.field(name, pa.string()) for name in MEDIA_COLUMNS),
]

RESERVED_COLUMNS = tuple(field.name for field in _CLIP_FIELDS)
"""Columns of ``clips.parquet`` that are not labels."""

_TAKEN = frozenset([*RESERVED_COLUMNS, "filename", "mean", "modalities", "scored", "chosen_on_val"])
"""Names of other columns and rows in tables of scores and predictions."""

TRUE_PREFIX = "true_"
"""Prefix of the columns with the true values of labels in ``predictions.parquet``."""


def is_taken(name: str) -> bool:
    """Return whether a label cannot have this name, because another column or row has it."""
    # Compared in snake case, because scores are named so.
    return snake(name) in _TAKEN or name.lower().startswith(TRUE_PREFIX)


def clips_schema(labels: Sequence[Label]) -> pa.Schema:
    """Return the schema of ``clips.parquet``: one row per clip, one float64 column per label (null if unlabelled)."""
    fields = _CLIP_FIELDS + [pa.field(label.name, pa.float64()) for label in labels]
    # Ranges are not in the columns themselves, and Parquet keeps the metadata of a schema.
    return pa.schema(fields, metadata={"emi_ray.labels": json.dumps([asdict(label) for label in labels])})


def labels_of(schema: pa.Schema) -> tuple[Label, ...]:
    """Return the labels in the metadata of a ``clips.parquet`` schema."""
    return tuple(Label(**label) for label in json.loads((schema.metadata or {})[b"emi_ray.labels"]))


class Origin(NamedTuple):
    """The inputs of one clip's features, transcript or failure.

    Attributes:
        source: hash of the content of the inputs; "" if unknown.
        stamp: the inputs by column, with size and time of each file, or the hash of a text. Equal stamps mean equal
            inputs, without reading the files; "" if unknown.
    """

    source: str = ""
    stamp: str = ""


UNKNOWN = Origin()
"""Origin of rows that do not record their inputs."""


def features_schema(dtype: pa.DataType, extras: Sequence[str], metadata: Mapping[str, str]) -> pa.Schema:
    """Return the schema of one feature file: one row per clip.

    ``features`` is a list of num_steps × feature_dim numbers, step by step, which pandas, DuckDB and ``datasets``
    can read. A list of lists took twice the time to read and four times to write. ``timestamps_s`` and each of
    ``extras`` is (num_steps,). ``source`` and ``source_stamp`` are an :class:`Origin`, ``digest`` is a hash of the
    features.
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
"""Failures of clips with their reasons. Stage ``missing`` means that the clip lacks the input. ``source`` and
``source_stamp`` are the :class:`Origin` of the attempt; null in older files."""
