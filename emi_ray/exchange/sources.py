"""Where one modality's ready features lie: a folder of one file a clip, or one file of many clips."""

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
    """Ready features of one modality, by the ids that the files spell."""

    @property
    def modality(self) -> Modality:
        """Of what."""

    @property
    def place(self) -> str:
        """Path or URI of the folder or file."""

    def ids(self) -> Sequence[str]:
        """All ids, sorted."""

    def digest(self) -> str:
        """16 hexadecimal digits of the content: of all ids and all bytes of features."""

    def arrays(self, wanted: Collection[str]) -> Iterator[tuple[str, np.ndarray | ClipError]]:
        """The features (T, D) of each id of ``wanted``, or why there are none, in a fixed order."""


@dataclass(frozen=True)
class FolderSource:
    """A folder with one file a clip, ``<id>.npy|.pt|.safetensors|.pkl``, local or behind a URI."""

    modality: Modality
    place: str

    @cached_property
    def _files(self) -> Mapping[str, str]:
        """Id → file name.

        Raises:
            UserError: two files have one id, or a name is no text.
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
                raise UserError(f"{self.place}: {found[stem]} and {name} are one clip. Remove one of them.")
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
    """BLAKE2 hash of a file's bytes, in hexadecimal.

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
