"""The index of a folder of parts: ``index/<folder>.parquet`` repeats columns of all parts, to open one file instead
of many.

On a disk it repeats the small columns. Behind a URI, where every opened file costs requests, it repeats whole rows
as long as all parts together are small. An entry is valid only while its part exists with the recorded size and
modification time. The index may be deleted at any time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.damage import DamagedFileError
from emi_ray.store.part_rows import of_parts
from emi_ray.workspace import Workspace

_STAMP = "part_stamp"

_latest: dict[tuple[str, str, tuple[str, ...]], pa.Table] = {}
"""Cache of the index that was last read behind a URI, by its location and parts."""


@dataclass(frozen=True)
class PartIndex:
    """The index of the parts in one folder of a workspace."""

    workspace: Workspace
    folder: str

    @property
    def path(self) -> str:
        return f"index/{self.folder}.parquet"

    def read(self, stamps: Mapping[str, str]) -> pa.Table | None:
        """Return the rows of unchanged parts, in the order of the parts, with ``part``; None without a readable
        index.

        Args:
            stamps: path → size and modification time of each part, sorted by path.
        """
        # Any new, changed or deleted part changes the key, so the cache cannot be out of date.
        key = (self.workspace.root, self.folder, tuple(f"{part} {stamp}" for part, stamp in stamps.items()))
        if key in _latest:
            return _latest[key]
        try:
            table = self.workspace.read_table(self.path)
        except (FileNotFoundError, DamagedFileError):
            return None
        if not {"part", _STAMP} <= set(table.column_names):
            return None
        # Rows of a part that was rewritten have another stamp, and are dropped here.
        named = pc.binary_join_element_wise(table["part"], table[_STAMP], " ")
        table = table.filter(pc.is_in(named, value_set=pa.array(key[2], pa.string()))).drop_columns([_STAMP])
        if not self.workspace.is_local:
            _latest.clear()
            _latest[key] = table
        return table

    def write(self, rows: pa.Table, stamps: Mapping[str, str]) -> None:
        """Write ``rows``, which have a column ``part``, as the index.

        Rows of parts that are not in ``stamps`` are left out. A workspace that is not writable gets no index.
        """
        _latest.clear()
        stamp = of_parts(rows, stamps, list(stamps.values()))
        table = rows.append_column(_STAMP, stamp).filter(pc.is_valid(stamp))
        try:
            self.workspace.write_tables(self.path, table.schema, [table])
        except PermissionError:
            return
