"""Features and targets of all clips in packed memory, read once and shared by all trainings.

The data are numpy arrays, so that processes can share a ``ClipData`` in Ray's object store without copying it.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.errors import EmiRayError, UserError
from emi_ray.schema import EncoderName, Label, labels_of
from emi_ray.store.feature_layout import steps_of
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import Workspace


@dataclass(frozen=True)
class PackedFeatures:
    """The features of one modality for N clips, with the steps of all clips concatenated.

    Attributes:
        values: (sum of steps, D) float16 or float32.
        starts, lengths: (N,) int64; clip i is ``values[starts[i] : starts[i] + lengths[i]]``.
        present: (N,) bool; False for a clip that lacks the modality.
        identity: fingerprint of the extractor, or a hash of the values.
        pooled: whether each clip has a single vector that the encoder's pooling has computed in advance.
        digests: (N,) str, a hash of each clip's features, empty for a clip without any; None if unknown.
    """

    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    present: np.ndarray
    identity: str
    pooled: bool = False
    digests: np.ndarray | None = None

    @property
    def feature_dim(self) -> int:
        return int(self.values.shape[1])

    def of(self, clip: int) -> np.ndarray:
        """Return the steps of one clip, (T, D)."""
        return self.values[self.starts[clip] : self.starts[clip] + self.lengths[clip]]

    def content_of(self, clips: np.ndarray) -> Iterator[bytes]:
        """Yield bytes that identify the features of each of some clips: their hash, or the features themselves."""
        for clip in clips:
            yield self.of(clip).tobytes() if self.digests is None else str(self.digests[clip]).encode()


@dataclass(frozen=True)
class ClipData:
    """N clips with their features and targets.

    Attributes:
        clip_ids: (N,) str.
        splits: (N,) str, ``train``, ``val`` or ``test``.
        features: features by encoder.
        targets: (N, L) float32 in the units of ``labels``; NaN for unknown values.
        labels: the L labels, with their ranges.
        groups: (N,) object, the group (person) of each clip or None; None if the corpus names no groups.
    """

    clip_ids: np.ndarray
    splits: np.ndarray
    features: Mapping[EncoderName, PackedFeatures]
    targets: np.ndarray
    labels: tuple[Label, ...]
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def num_bytes(self) -> int:
        """Size of all features in bytes."""
        return sum(packed.values.nbytes for packed in self.features.values())

    @property
    def unit_targets(self) -> np.ndarray:
        """Targets scaled from the ranges of the labels to [0, 1], (N, L) float32."""
        low, width = self._ranges
        return ((self.targets - low) / width).astype(np.float32)

    def in_units(self, predictions: np.ndarray) -> np.ndarray:
        """Convert predictions from the [0, 1] scale to the units of the labels, (N, L) float64."""
        low, width = self._ranges
        return predictions.astype(np.float64) * width + low

    @property
    def _ranges(self) -> tuple[np.ndarray, np.ndarray]:
        return label_ranges(self.labels)

    def labelled(self, labels: Sequence[Label]) -> "ClipData":
        """Select the targets of some labels by name, with the given ranges and in the given order.

        Raises:
            UserError: the corpus lacks a label.
        """
        names = [label.name for label in self.labels]
        if missing := [label.name for label in labels if label.name not in names]:
            raise UserError(
                f"The model predicts {', '.join(missing)}, which the corpus no longer has; its labels are: "
                f"{', '.join(names) or 'none'}. Read a corpus with that label (emi-ray init), or train again."
            )
        columns = [names.index(label.name) for label in labels]
        return replace(self, targets=self.targets[:, columns], labels=tuple(labels))

    def with_features(self, features: Mapping[EncoderName, PackedFeatures]) -> "ClipData":
        """Return the same clips with other features."""
        return replace(self, features=dict(features))


def label_ranges(labels: Sequence[Label]) -> tuple[np.ndarray, np.ndarray]:
    """Return the low ends and the widths of the labels' ranges, (L,) each; a width of 0 is replaced by 1."""
    low = np.array([label.low for label in labels])
    width = np.array([label.high - label.low for label in labels])
    return low, np.where(width > 0, width, 1.0)


def from_arrays(
    features: Mapping[EncoderName, Sequence[np.ndarray | None]],
    targets: np.ndarray,
    splits: Sequence[str],
    labels: Sequence[Label],
    clip_ids: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
) -> ClipData:
    """Pack arrays in memory: for each encoder one (T, D) array per clip, None for clips without the modality."""
    ids = [f"{index:05d}" for index in range(len(targets))] if clip_ids is None else clip_ids
    return ClipData(
        np.array(ids, dtype=str),
        np.array(splits, dtype=str),
        {modality: _pack(sequences) for modality, sequences in features.items()},
        np.asarray(targets, dtype=np.float32),
        tuple(labels),
        None if groups is None else np.array(groups, dtype=object),
    )


def read_clip_data(
    workspace: Workspace,
    stores: Mapping[EncoderName, FeatureStore],
    cache: Path | None = None,
    max_steps: Mapping[EncoderName, int] | None = None,
    extras: Mapping[EncoderName, tuple[str, ...]] | None = None,
) -> ClipData:
    """Read the corpus and the features of its clips.

    Args:
        workspace: holds the corpus.
        stores: feature store of each encoder.
        cache: local folder for memory-mapped packed features, for features that do not fit into memory.
        max_steps: by encoder, maximum number of steps of a clip.
        extras: by encoder, extra columns that are appended as further dimensions.

    Raises:
        UserError: there is no corpus, or features are not finite.
    """
    ids = workspace.clips(["clip_id"])["clip_id"].combine_chunks()
    limits = max_steps or {}
    packed = {
        m: read_packed(store, ids, cache, limits.get(m), (extras or {}).get(m, ()))
        for m, store in stores.items()
    }
    return join_clips(workspace.clips(), packed)


def join_clips(clips: pa.Table, features: Mapping[EncoderName, PackedFeatures]) -> ClipData:
    """Combine the clips of a corpus with features that are packed in the same order."""
    labels = labels_of(clips.schema)
    columns = [clips[label.name].to_numpy(zero_copy_only=False) for label in labels]
    return ClipData(
        np.array(clips["clip_id"].to_pylist(), dtype=str),
        np.array(clips["split"].to_pylist(), dtype=str),
        features,
        np.stack(columns, axis=1).astype(np.float32),
        labels,
        np.array(clips["group"].to_pylist(), dtype=object) if "group" in clips.column_names else None,
    )


def read_packed(
    store: FeatureStore,
    clip_ids: pa.Array,
    cache: Path | None = None,
    max_steps: int | None = None,
    extras: Sequence[str] = (),
) -> PackedFeatures:
    """Read the features of some clips from a store into packed memory, in the order of ``clip_ids``.

    Args:
        max_steps: maximum number of steps of a clip; later ones are not read.
        extras: columns with one number per step that are appended as the last dimensions.

    Raises:
        UserError: features are not finite, or the store lacks one of ``extras``.
    """
    starts = np.zeros(len(clip_ids), dtype=np.int64)
    lengths = np.zeros(len(clip_ids), dtype=np.int64)
    total, digests = _read_record(store, clip_ids, max_steps)
    values = _allocate(store, (total, store.feature_dim + len(extras)), cache)
    position = 0
    for table in store.tables(["clip_id", "num_steps", "features", *extras]):
        table = table.filter(pc.is_in(table["clip_id"], value_set=clip_ids))
        if not table.num_rows:
            continue
        steps = _steps_with(store, table, extras)
        _refuse_infinite(store, table, steps)
        rows = pc.index_in(table["clip_id"], value_set=clip_ids).to_numpy()
        counts = table["num_steps"].to_numpy().astype(np.int64)
        if max_steps is not None:
            place = np.arange(len(steps)) - np.repeat(np.cumsum(counts) - counts, counts)
            steps, counts = steps[place < max_steps], counts.clip(max=max_steps)
        lengths[rows] = counts
        starts[rows] = position + np.cumsum(counts) - counts
        values[position : position + len(steps)] = steps
        position += len(steps)
    identity = "+".join([store.fingerprint, *extras])
    if position != total:
        raise EmiRayError(
            f"{store.workspace.path(store.folder)} changed while it was read: wait until the running extraction has "
            "ended, and start again."
        )
    return PackedFeatures(values, starts, lengths, lengths > 0, identity, digests=digests)


def _steps_with(store: FeatureStore, table: pa.Table, extras: Sequence[str]) -> np.ndarray:
    """Return the steps of a table with the extra columns appended, (sum of steps, D + number of extras)."""
    steps = steps_of(table)
    lacking = [name for name in extras if name not in table.column_names]
    if lacking:
        made_by = store.describe().get("extractor", "?")
        raise UserError(
            f"{store.workspace.path(store.folder)} was extracted by '{made_by}' and has no column '{lacking[0]}', "
            "which the recipe reads as an extra: name features that have it, or set the encoder's extras=[]."
        )
    if not extras:
        return steps
    columns = [table[name].combine_chunks().flatten().to_numpy() for name in extras]
    return np.column_stack([steps, np.stack(columns, axis=1).astype(steps.dtype)])


def _pack(sequences: Sequence[np.ndarray | None]) -> PackedFeatures:
    lengths = np.array([0 if steps is None else len(steps) for steps in sequences], dtype=np.int64)
    values = np.concatenate([steps for steps in sequences if steps is not None])
    if values.dtype != np.float32:
        values = values.astype(np.float16)
    identity = hashlib.blake2b(values.tobytes(), digest_size=6).hexdigest()
    return PackedFeatures(values, np.cumsum(lengths) - lengths, lengths, lengths > 0, identity)


def _read_record(store: FeatureStore, clip_ids: pa.Array, max_steps: int | None) -> tuple[int, np.ndarray]:
    """Return the total number of steps and the hash of each clip's features, without reading the features."""
    record = store.held.record()
    place = pc.index_in(clip_ids, value_set=record["clip_id"].combine_chunks())
    steps = pc.fill_null(record["num_steps"].combine_chunks().take(place), 0).to_numpy().clip(max=max_steps)
    digests = pc.fill_null(record["digest"].combine_chunks().take(place), "")
    return int(steps.sum()), np.array(digests.to_pylist(), dtype=str)


def _allocate(store: FeatureStore, shape: tuple[int, int], cache: Path | None) -> np.ndarray:
    if cache is None or not shape[0]:
        return np.empty(shape, dtype=store.dtype)
    cache.mkdir(exist_ok=True)
    path = cache / f"{store.modality}-{store.fingerprint}.{store.dtype}"
    path.unlink(missing_ok=True)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        # On a full disk, writing to a mapping without reserved space would kill the process.
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shape[0] * shape[1] * store.dtype.itemsize)
    return np.memmap(path, dtype=store.dtype, mode="r+" if path.exists() else "w+", shape=shape)


def _refuse_infinite(store: FeatureStore, table: pa.Table, steps: np.ndarray) -> None:
    # Values that are not finite have an exponent of all ones. np.isfinite takes twice as long for float16.
    if steps.dtype == np.float16:
        is_finite = (steps.view(np.uint16) & 0x7C00).max(initial=0) < 0x7C00
    else:
        is_finite = bool(np.isfinite(steps).all())
    if is_finite:
        return
    finite = np.isfinite(steps).all(axis=1)
    ends = np.cumsum(table["num_steps"].to_numpy())
    clip = table["clip_id"][int(np.searchsorted(ends, int(np.argmin(finite)), side="right"))]
    raise UserError(
        f"{store.workspace.path(store.folder)}: features of clip '{clip}' contain NaN or infinity. "
        "Delete its part file and extract again, or leave the clip out of the corpus."
    )
