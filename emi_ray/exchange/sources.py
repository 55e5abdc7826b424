"""Sources of one modality's features: a folder with one file per clip, or one file with many clips."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from emi_ray.corpus.files import is_text, join, list_folder, read_buffer
from emi_ray.errors import ClipError, UserError
from emi_ray.exchange.arrays import READERS, STAGE, read_array
from emi_ray.schema import Modality
from emi_ray.storage import open_uri
from emi_ray.workspace import suffix_of

_CHUNK_BYTES = 1 << 22
_NUM_THREADS = 8


class Source(Protocol):
    """Features of one modality, by the ids as the files spell them."""

    @property
    def modality(self) -> Modality:
        """The modality of the features."""

    @property
    def place(self) -> str:
        """Path or URI of the folder or file."""

    def ids(self) -> Sequence[str]:
        """Return all ids, sorted."""

    def digest(self) -> str:
        """Return 16 hexadecimal digits of a hash of all ids and all bytes of features."""

    def arrays(self, wanted: Collection[str]) -> Iterator[tuple[str, np.ndarray | ClipError]]:
        """Yield the features (T, D) of each id in ``wanted``, or the reason why there are none, in a fixed order."""


@dataclass(frozen=True)
class FolderSource:
    """A folder with one file per clip, ``<id>.npy|.pt|.safetensors|.pkl``, local or behind a URI."""

    modality: Modality
    place: str

    @cached_property
    def _files(self) -> Mapping[str, str]:
        """Id → file name.

        Raises:
            UserError: two files have the same id, or a name is not valid text.
        """
        found: dict[str, str] = {}
        for name, is_folder in sorted(list_folder(self.place).items()):
            stem, dot, suffix = name.rpartition(".")
            if is_folder or not stem or dot + suffix.lower() not in READERS:
                continue
            if not is_text(name):
                raise UserError(
                    f"{self.place}: the name {os.fsencode(name)!r} is not UTF-8 text. Rename the file."
                )
            if stem in found:
                raise UserError(
                    f"{self.place}: {found[stem]} and {name} are the same clip. Remove one of them."
                )
            found[stem] = name
        return found

    def ids(self) -> Sequence[str]:
        return list(self._files)

    def digest(self) -> str:
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            hashes = threads.map(lambda name: hash_file(join(self.place, name)), self._files.values())
            lines = [f"{clip_id} {found}" for clip_id, found in zip(self._files, hashes, strict=True)]
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()

    def arrays(self, wanted: Collection[str]) -> Iterator[tuple[str, np.ndarray | ClipError]]:
        for clip_id in sorted(wanted):
            path = join(self.place, self._files[clip_id])
            suffix = suffix_of(path)
            try:
                yield clip_id, read_array(read_buffer(path).to_pybytes(), suffix)
            except (ClipError, UserError) as error:
                reason = error.reason if isinstance(error, ClipError) else str(error)
                yield clip_id, ClipError(STAGE, f"{path}: {reason}")


def hash_file(path: str) -> str:
    """Return the BLAKE2 hash of a file's bytes, in hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    filesystem, inner = open_uri(path)
    digest = hashlib.blake2b(digest_size=16)
    try:
        with filesystem.open_input_stream(inner) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    return digest.hexdigest()
