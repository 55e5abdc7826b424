"""Read the features of clips from stores into packed memory, or into a file that processes map."""

from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.errors import EmiRayError, UserError
from emi_ray.schema import EncoderName
from emi_ray.store.feature_layout import steps_of
from emi_ray.store.feature_precision import is_finite
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.data.clip_data import ClipData, PackedFeatures, join_clips
from emi_ray.workspace import Workspace


def read_clip_data(
    workspace: Workspace,
    stores: Mapping[EncoderName, FeatureStore],
    max_steps: Mapping[EncoderName, int] | None = None,
    extras: Mapping[EncoderName, tuple[str, ...]] | None = None,
    clips: pa.Table | None = None,
) -> ClipData:
    """Read the corpus and the features of its clips.

    Args:
        workspace: holds the corpus.
        stores: feature store of each encoder.
        max_steps: by encoder, maximum number of steps of a clip.
        extras: by encoder, extra columns that are appended as further dimensions.
        clips: the corpus, if it was read already.

    Raises:
        UserError: there is no corpus, or features are not finite.
    """
    # Read once: a corpus that is replaced meanwhile has its clips in another order.
    clips = workspace.clips() if clips is None else clips
    ids = clips["clip_id"].combine_chunks()
    limits = max_steps or {}
    packed = {
        m: read_packed(store, ids, max_steps=limits.get(m), extras=(extras or {}).get(m, ()))
        for m, store in stores.items()
    }
    return join_clips(clips, packed)


def read_packed(
    store: FeatureStore,
    clip_ids: pa.Array,
    file: BinaryIO | None = None,
    max_steps: int | None = None,
    extras: Sequence[str] = (),
    keep_pages: bool = True,
) -> PackedFeatures:
    """Read the features of some clips from a store into packed memory, in the order of ``clip_ids``.

    Args:
        file: unbuffered file, open for reading and writing, that receives the values; they are returned as a mapping
            of it. None returns an array. The file is not truncated first, so that a repeated attempt, which writes
            the same bytes, does not disturb processes that have mapped it.
        max_steps: maximum number of steps of a clip; later ones are not read.
        extras: columns with one number per step that are appended as the last dimensions.
        keep_pages: whether the kernel may keep the store's own pages in memory, for other readers.

    Raises:
        UserError: features are not finite, or the store lacks one of ``extras``.
    """
    starts = np.zeros(len(clip_ids), dtype=np.int64)
    lengths = np.zeros(len(clip_ids), dtype=np.int64)
    total, digests = _read_record(store, clip_ids, max_steps)
    shape = (total, store.feature_dim + len(extras))
    values = _Array(shape, store.dtype) if file is None or not total else _File(shape, store.dtype, file)
    for table in store.tables(["clip_id", "num_steps", "features", *extras], keep_pages):
        if not table.num_rows:  # all of its clips are in an earlier part too
            continue
        found = pc.index_in(table["clip_id"].combine_chunks(), value_set=clip_ids)
        is_wanted = found.is_valid().to_numpy(zero_copy_only=False)
        rows = found.drop_null().to_numpy()
        steps, counts = _steps_with(store, table, extras), table["num_steps"].to_numpy().astype(np.int64)
        if not is_wanted.all():  # Arrow's filter takes twice as long for lists of float16 as reading them
            steps, counts = steps[np.repeat(is_wanted, counts)], counts[is_wanted]
        _refuse_infinite(store, clip_ids.take(pa.array(rows)), counts, steps)
        if max_steps is not None:
            place = np.arange(len(steps)) - np.repeat(np.cumsum(counts) - counts, counts)
            steps, counts = steps[place < max_steps], counts.clip(max=max_steps)
        lengths[rows] = counts
        starts[rows] = values.num_steps + np.cumsum(counts) - counts
        values.append(steps)
    identity = "+".join([store.fingerprint, *extras])
    if values.num_steps != total:
        raise EmiRayError(
            f"{store.workspace.path(store.folder)} changed while it was read: wait until the running extraction has "
            "ended, and start again."
        )
    return PackedFeatures(values.finish(), starts, lengths, lengths > 0, identity, digests=digests)


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


def _read_record(store: FeatureStore, clip_ids: pa.Array, max_steps: int | None) -> tuple[int, np.ndarray]:
    """Return the total number of steps and the hash of each clip's features, without reading the features."""
    record = store.held.record()
    place = pc.index_in(clip_ids, value_set=record["clip_id"].combine_chunks())
    steps = pc.fill_null(record["num_steps"].combine_chunks().take(place), 0).to_numpy().clip(max=max_steps)
    digests = pc.fill_null(record["digest"].combine_chunks().take(place), "")
    return int(steps.sum()), np.array(digests.to_pylist(), dtype=str)


class _Array:
    """An array (steps, D) that is filled from its start."""

    def __init__(self, shape: tuple[int, int], dtype: np.dtype) -> None:
        self._values = np.empty(shape, dtype)
        self.num_steps = 0

    def append(self, steps: np.ndarray) -> None:
        self._values[self.num_steps : self.num_steps + len(steps)] = steps
        self.num_steps += len(steps)

    def finish(self) -> np.ndarray:
        return self._values


class _File:
    """The same in a file, which is mapped at the end.

    Writing to the file takes half the time of writing to a mapping of it, where the kernel handles every page
    separately, and a full disk is an error instead of the end of the process.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype, file: BinaryIO) -> None:
        self._file = file
        self._shape, self._dtype = shape, dtype
        self.num_steps = 0

    def append(self, steps: np.ndarray) -> None:
        left = np.ascontiguousarray(steps, self._dtype).reshape(-1).view(np.uint8).data
        while left.nbytes:  # the kernel writes at most 2 GiB at once
            left = left[self._file.write(left) :]
        self.num_steps += len(steps)

    def finish(self) -> np.ndarray:
        return np.memmap(self._file, self._dtype, "r", shape=self._shape)


def _refuse_infinite(store: FeatureStore, clip_ids: pa.Array, counts: np.ndarray, steps: np.ndarray) -> None:
    """Raise a UserError that names the first of ``clip_ids`` whose steps, ``counts`` of them, are not finite."""
    if is_finite(steps):
        return
    finite = np.isfinite(steps).all(axis=1)
    clip = clip_ids[int(np.searchsorted(np.cumsum(counts), int(np.argmin(finite)), side="right"))]
    raise UserError(
        f"{store.workspace.path(store.folder)}: features of clip '{clip}' contain NaN or infinity. "
        "Delete its part file and extract again, or leave the clip out of the corpus."
    )
