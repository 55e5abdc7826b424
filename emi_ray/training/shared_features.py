"""The features of one command, which all of its trainings share. Each store is read once, by a Ray task.

The features are in Ray's object store, which copies them to the nodes that need them. In a local session, features
that fill much of the memory are in a temporary file instead, which all processes map: the object store would hold
them in memory that the kernel cannot take back, up to 30 % of it, and write the rest to the disk.
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
from emi_ray.runtime import CORES
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.data.clip_data import PackedFeatures
from emi_ray.training.data.packed_reading import read_packed

MAX_RETRIES = 3
"""How often Ray repeats a task after its process or its node was lost."""

_PREFIX = "emi-ray-features-"

_LARGE = 1 / 3
"""Share of the available memory above which features are large: a reader holds them twice while it copies them."""


@dataclass(frozen=True)
class MappedFeatures:
    """Packed features whose values are in a file of this machine.

    Attributes:
        packed: the features without their values.
        path: the file.
        shape: shape of the values, (sum of steps, D).
    """

    packed: PackedFeatures
    path: str
    shape: tuple[int, int]

    def open(self) -> PackedFeatures:
        """Map the values."""
        values = np.memmap(self.path, self.packed.values.dtype, "r", shape=self.shape)
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
    _folder: Path | None = None

    def __post_init__(self) -> None:
        is_local = bool(ray.cluster_resources().get(CORES))
        if is_local and _is_large(self.num_bytes) and _fits_on_disk(self.num_bytes):
            _remove_leftovers()
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))

    def of(self, store: FeatureStore, max_steps: int | None, extras: Sequence[str]) -> Any:
        """Return a reference to the features of a store, to be passed to a task that calls :func:`opened`."""
        # Encoders may read the same store with other limits or extra columns, which gives other arrays.
        key = json.dumps([store.folder, max_steps, list(extras)])
        if key not in self._references:
            folder = None if self._folder is None else self._folder / str(len(self._references))
            # Reading waits for the disk most of the time, so it reserves only a tenth of a core.
            read = ray.remote(num_cpus=0.1, max_retries=MAX_RETRIES)(_read)
            self._references[key] = read.remote(store, self.clips, max_steps, extras, folder, self.num_bytes)
        return self._references[key]

    def close(self) -> None:
        """Remove the files. Processes that have mapped them keep them until they end."""
        if self._folder is None:
            return
        # After an error some may not be read yet, and would be read into a folder that nobody removes.
        for reference in self._references.values():
            ray.cancel(reference)
        shutil.rmtree(self._folder, ignore_errors=True)


def opened(features: PackedFeatures | MappedFeatures) -> PackedFeatures:
    """Return features as a task received them in packed form."""
    return features.open() if isinstance(features, MappedFeatures) else features


def num_bytes_of(store: FeatureStore) -> int:
    """Return the size in memory of all features of a store, computed from its record without reading them."""
    # pc.sum of an empty column is null.
    steps = int(pc.sum(store.held.record()["num_steps"]).as_py() or 0)
    return steps * store.feature_dim * store.dtype.itemsize


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
    folder: Path | None,
    num_bytes: int,
) -> PackedFeatures | MappedFeatures:
    """Read the features of a store; runs as a Ray task.

    Args:
        folder: folder for a file with the values; None returns them.
        num_bytes: size of all features of the command, which several tasks may be reading on this node.
    """
    ids = clips["clip_id"].combine_chunks()
    if folder is not None:
        packed = read_packed(store, ids, folder, max_steps, extras)
        if not isinstance(packed.values, np.memmap):  # no clip has features
            return packed
        without = replace(packed, values=np.empty((0, packed.feature_dim), packed.values.dtype))
        return MappedFeatures(without, str(packed.values.filename), packed.values.shape)
    if not (_is_large(num_bytes) and _fits_on_disk(num_bytes)):
        return read_packed(store, ids, max_steps=max_steps, extras=extras)
    # Ray copies the result into its object store, so that an array in this process would need the memory twice. The
    # kernel may write the pages of a file to the disk.
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as temporary:
        packed = read_packed(store, ids, Path(temporary), max_steps, extras)
    # The mapping outlives the name of its file. Ray would pickle anything but a plain array, which is another copy.
    return replace(packed, values=np.asarray(packed.values))


def _remove_leftovers() -> None:
    """Remove the files of commands that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError, ValueError):
            if not psutil.pid_exists(int(folder.name.removeprefix(_PREFIX).partition("-")[0])):
                shutil.rmtree(folder, ignore_errors=True)
