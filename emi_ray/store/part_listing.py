"""Which parts are in a folder, and their names.

A raw part is cheap to write, and merging converts it to the layout of the others. Until then pandas, DuckDB and
``datasets`` ignore it, because its name begins with an underscore and has no suffix.
"""

import logging

from emi_ray.store.part_rows import size_of
from emi_ray.workspace import Workspace

PART, RAW = "part-{}.parquet", "_raw-{}"
"""Names of parts and of raw parts."""

_LISTINGS = 10

_LOG = logging.getLogger(__name__)


def is_raw(path: str) -> bool:
    """Return whether a part has the layout that is cheap to write."""
    return path.rpartition("/")[2].startswith(RAW.format(""))


def list_parts(workspace: Workspace, folder: str) -> dict[str, str]:
    """Return path → size and modification time of each part of a folder, sorted by path.

    A listing takes a while. If parts are merged meanwhile, it can lack both the parts, which were deleted before it
    came to them, and the merged one, which was not there when it came to its name. It is therefore repeated until
    no part of the earlier listing has vanished; parts that were added do not matter.
    """
    found = _with_content(workspace, folder)
    for _ in range(_LISTINGS):
        before, found = found, _with_content(workspace, folder)
        if before.keys() <= found.keys():
            break
    return found


def remove_empty_parts(workspace: Workspace, folder: str) -> None:
    """Remove the parts without content, which a power failure can leave."""
    for path, stamp in _all(workspace, folder).items():
        if not size_of(stamp):
            _LOG.warning("%s is empty, probably after a power failure: its clips count as not done", path)
            workspace.delete_file(path)


def _with_content(workspace: Workspace, folder: str) -> dict[str, str]:
    return {path: stamp for path, stamp in _all(workspace, folder).items() if size_of(stamp)}


def _all(workspace: Workspace, folder: str) -> dict[str, str]:
    stamps = workspace.stamps(folder)
    return {path: stamp for path, stamp in stamps.items() if path.endswith(".parquet") or is_raw(path)}
