"""Read features of many clips from one file: .npz, HDF5, Parquet."""

import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emi_ray.errors import ClipError, UserError, choices
from emi_ray.exchange.arrays import STAGE, as_steps
from emi_ray.exchange.columns import SEQUENCE_NAMES, as_numbers, counts, is_list, is_number, tells_when
from emi_ray.exchange.sources import Source, hash_file
from emi_ray.schema import Modality
from emi_ray.storage import open_uri

ID_NAMES = ("clip_id", "id", "ids", "Filename", "filename", "name")
"""Names of a column or array of ids; the first one that exists is used. Without one, the keys are the ids."""

_ROWS_PER_BATCH = 256
_EMPTY_ZIP = b"PK\x05\x06" + bytes(18)


@dataclass(frozen=True)
class _File:
    modality: Modality
    place: str

    def digest(self) -> str:
        return hash_file(self.place)[:16]

    def _array(self, clip_id: str, value: Any) -> np.ndarray | ClipError:
        try:
            return as_steps(value)
        except ClipError as error:
            return ClipError(STAGE, f"{self.place}, {clip_id}: {error.reason}")


@dataclass(frozen=True)
class KeyedSource(_File):
    """An .npz or HDF5 file: one array per clip under its id; or an array of ids and one of features.

    In HDF5 a clip may also be a group with one dataset.
    """

    @cached_property
    def _rows(self) -> Mapping[str, tuple[str, int | None]]:
        """Id → the key of its array, and its row if one array has all clips."""
        with _open_keyed(self.place) as held:
            named = next((name for name in ID_NAMES if name in held and _ndim(held[name]) == 1), None)
            if named is None:
                return {key: (key, None) for key in sorted(held)}
            others = [key for key in held if key != named]
            if len(others) != 1:
                raise UserError(
                    f"{self.place}: besides '{named}' there are {len(others)} arrays ({', '.join(others)}). "
                    "Keep only the one with the features."
                )
            ids = [_text(name) for name in held[named][:]]
            _refuse_repeated(self.place, ids)
            if (num_rows := len(held[others[0]])) != len(ids):
                raise UserError(
                    f"{self.place}: '{named}' has {len(ids)} ids and '{others[0]}' {num_rows} rows, so they cannot "
                    "be matched. Write the file again."
                )
            return dict(sorted((name, (others[0], row)) for row, name in enumerate(ids)))

    def ids(self) -> Sequence[str]:
        return list(self._rows)

    def arrays(self, wanted: Collection[str]) -> Iterator[tuple[str, np.ndarray | ClipError]]:
        with _open_keyed(self.place) as held:
            # np.load decompresses an array each time it is accessed, so a shared array is accessed once.
            shared = {key: held[key] for key in {key for key, row in self._rows.values() if row is not None}}
            for clip_id in sorted(wanted):
                key, row = self._rows[clip_id]
                try:
                    value = _dataset(held[key]) if row is None else shared[key][row]
                except (ValueError, OSError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
                    yield clip_id, ClipError(STAGE, f"{self.place}, {key}: {error}")
                else:
                    yield clip_id, self._array(clip_id, value)


@dataclass(frozen=True)
class ParquetSource(_File):
    """A Parquet file with a column of ids and either one column of lists or many numeric columns.

    A list of lists is the steps of a clip. With numeric columns, each row is one step, and the rows of a clip must
    be adjacent. A column that counts frames or gives the time (``SEQUENCE_NAMES``) is not a feature: it determines
    the order of a clip's rows.
    """

    @cached_property
    def _ids(self) -> tuple[str, Sequence[str]]:
        """The name of the id column, and the ids in the order of the file."""
        with _open_parquet(self.place) as file:
            names = file.schema_arrow.names
            named = next((name for name in ID_NAMES if name in names), None)
            if named is None:
                raise UserError(f"{self.place}: no column of ids among {', '.join(names)}. Call it clip_id.")
            column = file.read([named])[named]
        # groupby joins adjacent rows only, so an id that occurs twice here is not adjacent in the file.
        ids = [clip_id for clip_id, _ in groupby(_text(value) for value in column.to_pylist())]
        if len(set(ids)) < len(ids):
            twice = next(clip_id for clip_id in ids if ids.count(clip_id) > 1)
            raise UserError(
                f"{self.place}: the rows of '{twice}' are not adjacent. Sort the file by {named}."
            )
        return named, ids

    def ids(self) -> Sequence[str]:
        return sorted(self._ids[1])

    def feature_names(self) -> Sequence[str]:
        """Return the numeric columns that are used as features, or the one column of lists."""
        with _open_parquet(self.place) as file:
            columns = self._feature_columns(file.schema_arrow)
        return [name for name in columns if name != self._sequence]

    def arrays(self, wanted: Collection[str]) -> Iterator[tuple[str, np.ndarray | ClipError]]:
        left = set(wanted)
        for clip_id, rows in groupby(self._each_row(), key=lambda row: row[0]):
            if not left:
                return
            if clip_id in left:
                left.remove(clip_id)
                steps = [value for _, value in rows]
                yield clip_id, self._in_order(clip_id, steps)

    def _in_order(self, clip_id: str, steps: list[Any]) -> np.ndarray | ClipError:
        """Return one clip's features. If rows begin with the sequence column, they are sorted by it."""
        if self._sequence is None:
            return self._array(clip_id, steps[0] if len(steps) == 1 else steps)
        moments = np.array([step[0] for step in steps])
        if not np.isfinite(moments).all() or len(np.unique(moments)) < len(moments):
            reason = (
                f"{self._sequence} is missing, not a number, or equal in several rows, so that their order is "
                "unknown"
            )
            return ClipError(STAGE, f"{self.place}, {clip_id}: {reason}")
        return self._array(clip_id, [steps[index][1:] for index in np.argsort(moments)])

    @cached_property
    def _sequence(self) -> str | None:
        """The column that determines the order of a clip's rows."""
        with _open_parquet(self.place) as file:
            schema = file.schema_arrow
        if any(is_list(field.type) for field in schema):
            return None
        names = {field.name.strip().lower(): field.name for field in schema if tells_when(field.type)}
        return next((names[name] for name in SEQUENCE_NAMES if name in names), None)

    def _each_row(self) -> Iterator[tuple[str, Any]]:
        named, _ = self._ids
        with _open_parquet(self.place) as file:
            columns = self._feature_columns(file.schema_arrow)
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=[named, *columns]):
                ids = map(_text, batch[named].to_pylist())
                yield from zip(ids, _row_values(batch, columns), strict=True)

    def _feature_columns(self, schema: pa.Schema) -> list[str]:
        lists = [field.name for field in schema if is_list(field.type)]
        if "features" in lists:
            return ["features"]
        if len(lists) > 1:
            raise UserError(f"{self.place}: several columns of lists: {', '.join(lists)}. Keep only one.")
        numbers = [field.name for field in schema if is_number(field.type)]
        found = lists or [name for name in numbers if name not in ID_NAMES and not counts(name)]
        if not found:
            raise UserError(f"{self.place}: no column of features, neither lists nor numbers.")
        return [self._sequence, *found] if self._sequence else found


_KINDS: Mapping[str, type[KeyedSource] | type[ParquetSource]] = {
    "npz": KeyedSource,
    "h5": KeyedSource,
    "hdf5": KeyedSource,
    "parquet": ParquetSource,
    "pq": ParquetSource,
}


def open_table(modality: Modality, path: str) -> Source:
    """Open one file of features.

    Raises:
        UserError: the suffix is not supported.
    """
    suffix = path.partition("?")[0].rpartition(".")[2].lower()
    if suffix not in _KINDS:
        raise UserError(f"--source {path}: a table has one of the suffixes: {choices(suffix, _KINDS)}")
    return _KINDS[suffix](modality, path)


@contextmanager
def _open_keyed(path: str) -> Iterator[Mapping[str, Any]]:
    filesystem, inner = open_uri(path)
    try:
        with filesystem.open_input_file(inner) as stream:
            if path.partition("?")[0].lower().endswith(".npz"):
                # An .npz without arrays consists only of the end record of a ZIP archive.
                if stream.size() <= len(_EMPTY_ZIP):
                    raise UserError(f"{path} contains no arrays.")
                with np.load(stream, allow_pickle=False) as held:
                    _refuse_repeated(path, held.files)
                    yield held
            else:
                import h5py

                with h5py.File(stream, "r") as held:
                    yield held
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


@contextmanager
def _open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    filesystem, inner = open_uri(path)
    try:
        with filesystem.open_input_file(inner) as stream:
            yield pq.ParquetFile(stream)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}.") from None


def _row_values(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[Any]:
    if is_list(batch.schema.field(columns[0]).type):
        for value in batch[columns[0]]:
            yield _list_value(value)
        return
    yield from np.stack([as_numbers(batch[name]) for name in columns], axis=1)


def _list_value(value: pa.Scalar) -> np.ndarray | None:
    """Convert a list of numbers to (D,), or a list of equally long lists of numbers to (T, D)."""
    flat = value.values
    if flat is None or not is_list(flat.type):
        return None if flat is None else flat.to_numpy(zero_copy_only=False)
    numbers = flat.flatten().to_numpy(zero_copy_only=False)
    sizes = {len(step) if step.is_valid else -1 for step in flat}
    if len(sizes) != 1 or len(numbers) % len(flat):
        return np.empty(0)
    return numbers.reshape(len(flat), -1)


def _refuse_repeated(place: str, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{place}: '{twice}' occurs twice. Keep one array of each clip.")


def _dataset(value: Any) -> Any:
    """Return the array of a clip; of an HDF5 group, its only dataset."""
    if hasattr(value, "keys"):
        held = list(value.values())
        if len(held) != 1 or hasattr(held[0], "keys"):
            raise ValueError(f"a group must contain one dataset, not {len(held)} members")
        value = held[0]
    return value[()]


def _ndim(value: Any) -> int:
    return int(getattr(value, "ndim", 0))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
