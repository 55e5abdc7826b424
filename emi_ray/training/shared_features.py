"""The features of one command, which all of its trainings share. Each store is read once, by a Ray task.

On a cluster they are in Ray's object store, which copies them to the nodes that need them. In a local session all
processes map the same memory instead. Copying the features into the object store would take their memory twice, and
that store is limited to 30 % of the memory. Features that do not fit into memory are in a temporary file, whose pages
the kernel can write to the disk.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import ray

from emi_ray.memory import available_memory
from emi_ray.runtime import READERS, is_local_session
from emi_ray.store.feature_store import FeatureStore
from emi_ray.store.part_rows import first_rows
from emi_ray.store.read_ahead import TABLES_AHEAD
from emi_ray.training.data.clip_data import PackedFeatures
from emi_ray.training.data.packed_reading import read_packed
from emi_ray.training.data.shared_file import SharedFile, create_in_memory, create_on_disk

MAX_RETRIES = 3
"""How often Ray repeats a task after its process or its node was lost."""

_PREFIX = "emi-ray-features-"

_LARGE = 1 / 3
"""Share of the available memory above which features are large: they are not held twice, as for a copy into the
object store, nor are the pages of the store kept beside them."""

_FITTING = 1 / 2
"""Share of the available memory that shared features may take; the rest is for the trainings."""


@dataclass(frozen=True)
class MappedFeatures:
    """Packed features whose values are in a file of this machine, on its disk or in its memory.

    Attributes:
        packed: the features without their values.
        file: the file.
        shape: shape of the values, (sum of steps, D).
    """

    packed: PackedFeatures
    file: SharedFile
    shape: tuple[int, int]

    def open(self) -> PackedFeatures:
        """Map the values."""
        with self.file.open("rb") as file:
            values = np.memmap(file, self.packed.values.dtype, "r", shape=self.shape)
        return replace(self.packed, values=np.asarray(values))


@dataclass
class SharedFeatures:
    """References to the features of one command.

    Attributes:
        clips: reference to the corpus, whose order the features get.
        num_bytes: size of all features of the command.
    """

    clips: Any
    num_bytes: int
    _references: dict[str, Any] = field(default_factory=dict)
    _in_memory: bool = False
    _readers: dict[str, float] = field(default_factory=dict)
    _descriptors: list[int] = field(default_factory=list)
    _folder: Path | None = None

    def __post_init__(self) -> None:
        if not is_local_session():
            return
        self._readers = {READERS: 1} if READERS in ray.cluster_resources() else {}
        # Files in memory are freed with this process, also if it is killed.
        self._in_memory = self.num_bytes <= _FITTING * available_memory() and _has_memory_files()
        if not self._in_memory and _is_large(self.num_bytes) and _fits_on_disk(self.num_bytes):
            _remove_leftovers()
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))

    def of(self, store: FeatureStore, max_steps: int | None, extras: Sequence[str]) -> Any:
        """Return a reference to the features of a store, to be passed to a task that calls :func:`opened`."""
        # Encoders may read the same store with other limits or extra columns, which gives other arrays.
        key = json.dumps([store.folder, max_steps, list(extras)])
        if key not in self._references:
            # A reading task often waits for the disk, so it reserves only a tenth of a core.
            read = ray.remote(num_cpus=0.1, resources=self._readers, max_retries=MAX_RETRIES)(_read)
            self._references[key] = read.remote(
                store, self.clips, max_steps, extras, self._new_file(), self.num_bytes
            )
        return self._references[key]

    def _new_file(self) -> SharedFile | None:
        """Create a file for features; None if they are to be in Ray's object store."""
        if self._in_memory:
            file, descriptor = create_in_memory()
            self._descriptors.append(descriptor)
            return file
        if self._folder is None:
            return None
        return create_on_disk(self._folder / str(len(self._references)))

    def close(self) -> None:
        """Remove the files. Processes that have opened or mapped them keep them until they end."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        if self._folder is None:
            return
        # After an error some may not be read yet. Ray 2.60 may crash when a task is cancelled that has just ended.
        references = list(self._references.values())
        unread = ray.wait(references, num_returns=len(references), timeout=0)[1] if references else []
        for reference in unread:
            ray.cancel(reference)
        shutil.rmtree(self._folder, ignore_errors=True)


def _has_memory_files() -> bool:
    try:
        os.close(create_in_memory()[1])
    except OSError:
        return False
    return True


def opened(features: PackedFeatures | MappedFeatures) -> PackedFeatures:
    """Return features as a task received them in packed form."""
    return features.open() if isinstance(features, MappedFeatures) else features


def num_bytes_of(store: FeatureStore, num_extras: int = 0) -> int:
    """Return the size in memory of all features of a store, computed from its record without reading them.

    Args:
        num_extras: number of extra columns that are appended as further dimensions.
    """
    # pc.sum of an empty column is null.
    steps = int(pc.sum(first_rows(store.held.record())["num_steps"]).as_py() or 0)
    return steps * (store.feature_dim + num_extras) * store.dtype.itemsize


def _is_large(num_bytes: int) -> bool:
    return num_bytes > _LARGE * available_memory()


def _fits_on_disk(num_bytes: int) -> bool:
    """Return whether the folder for temporary files has room for the features, and is not itself in memory."""
    folder = Path(tempfile.gettempdir()).resolve()
    places = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    kinds = [places[parent] for parent in (folder, *folder.parents) if parent in places]
    return kinds[:1] not in (["tmpfs"], ["ramfs"]) and shutil.disk_usage(folder).free > 1.2 * num_bytes


def _read(
    store: FeatureStore,
    clips: pa.Table,
    max_steps: int | None,
    extras: Sequence[str],
    file: SharedFile | None,
    num_bytes: int,
) -> PackedFeatures | MappedFeatures:
    """Read the features of a store; runs as a Ray task.

    Args:
        file: file for the values; None returns them.
        num_bytes: size of all features of the command, which several tasks may be reading on this node.
    """
    # Ray limits the threads of a task, also those of Arrow, to the CPUs that it reserves.
    pa.set_cpu_count(min(TABLES_AHEAD, os.cpu_count() or 1))
    ids = clips["clip_id"].combine_chunks()
    is_large = _is_large(num_bytes)
    if file is not None:
        with file.open("r+b") as opened_file:
            packed = read_packed(store, ids, opened_file, max_steps, extras, keep_pages=not is_large)
        if not isinstance(packed.values, np.memmap):  # no clip has features
            return packed
        without = replace(packed, values=np.empty((0, packed.feature_dim), packed.values.dtype))
        return MappedFeatures(without, file, packed.values.shape)
    if not (is_large and _fits_on_disk(num_bytes)):
        return read_packed(store, ids, max_steps=max_steps, extras=extras)
    # Ray copies the result into its object store, so that an array in this process would need the memory twice. The
    # kernel may write the pages of a file to the disk.
    with tempfile.TemporaryFile(buffering=0) as temporary:
        packed = read_packed(store, ids, temporary, max_steps, extras, keep_pages=False)
    # The mapping outlives the name of its file. Ray would pickle anything but a plain array, which is another copy.
    return replace(packed, values=np.asarray(packed.values))


def _remove_leftovers() -> None:
    """Remove the files of commands that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError, ValueError):
            if not psutil.pid_exists(int(folder.name.removeprefix(_PREFIX).partition("-")[0])):
                shutil.rmtree(folder, ignore_errors=True)
