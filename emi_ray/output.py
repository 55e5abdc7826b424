"""Write an output file of a command, on a disk or behind a URI, so that it appears only when it is complete."""

import os
import uuid
from pathlib import Path

from pyarrow import fs

from emi_ray.errors import UserError
from emi_ray.reachability import require_in_reach
from emi_ray.storage import explain, open_uri


def check_output(to: str, option: str = "--to") -> None:
    """Check before the work that a file can be written.

    Raises:
        UserError: the path is a folder, or is not writable.
        StorageError: the object store cannot be reached.
    """
    filesystem, path = open_uri(to)
    require_in_reach(filesystem, path, to)
    if not isinstance(filesystem, fs.LocalFileSystem):
        if "/" not in path:
            raise UserError(f"{option} {to}: the name of the file is missing: {to.rstrip('/')}/NAME.")
        return
    target = Path(path)
    if target.is_dir():
        raise UserError(f"{option} {to} is a folder: give a file in it.")
    # The missing folders are created later, in the nearest one that exists.
    nearest = next(parent for parent in target.parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"{option} {to}: {nearest} cannot be written to. Choose another place.")


def write_output(to: str, data: bytes, option: str = "--to") -> None:
    """Write a file atomically; an earlier one stays until then.

    Raises:
        UserError: it cannot be written; the message states the reason.
    """
    filesystem, path = open_uri(to)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_locally(Path(path), data)
            return
        # In an object store an object appears only when its upload is complete, so no hidden name is needed.
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)
    except OSError as error:
        raise UserError(f"{option} {to} cannot be written: {explain(error)}") from None


def _write_locally(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        hidden.write_bytes(data)
        hidden.replace(target)
    finally:
        # After a successful rename there is nothing left to remove.
        hidden.unlink(missing_ok=True)
