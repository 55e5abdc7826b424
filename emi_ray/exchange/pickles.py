"""Pickles that may hold numpy arrays, torch tensors and plain containers of them, and can do nothing.

A pickle is a program: it may call any function that its reader can import. Here it may call those that numpy
and torch write for arrays and tensors, each in a version of our own that checks its arguments. Any other is
refused by name before it is imported, so nothing of it runs.
"""

import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar
from numpy._core.numeric import _frombuffer

ZIP_MAGIC = b"PK\x03\x04"
_TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The long integer with which files of ``torch.save`` began before they were ZIP archives."""

_UNSUPPORTED = re.compile(r"GLOBAL (\S+) was not an allowed global|Unsupported (?:class|global|operand) (\S+)")


class RefusedError(Exception):
    """The data are no pickle of arrays; the message says what is wrong, as the end of a sentence."""


def load_pickle(data: bytes) -> Any:
    """What a pickle, or a file of ``torch.save``, holds: arrays, tensors, numbers, text and containers.

    Raises:
        RefusedError: it wants anything else, by whose name it is refused, or it is damaged.
    """
    if data[:4] == ZIP_MAGIC or _TORCH_MAGIC in data[:32]:
        return _load_torch(data)
    try:
        return _ArrayUnpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise RefusedError(f"cannot be unpickled: {_first_line(error)}") from None
    except (EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, MemoryError) as error:
        # What damaged or forged pickles make the unpickler, numpy and torch raise.
        raise RefusedError(f"is a damaged pickle ({_first_line(error)})") from None


class _ArrayUnpickler(pickle.Unpickler):
    """Finds in ``ADMITTED`` only. Functions there are called by the pickle, so each checks its arguments."""

    def find_class(self, module: str, name: str) -> Any:
        found = ADMITTED.get(module, {}).get(name)
        if found is None:
            raise RefusedError(
                f"wants to use {module}.{name}: only numpy arrays and torch tensors are read; nothing ran"
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("refers to objects outside itself; nothing ran")


def _numpy_array(kind: Any, shape: Any, typecode: Any) -> np.ndarray:
    """numpy's blank array, which the pickle then fills. numpy itself always writes these very arguments."""
    if kind is not np.ndarray or shape != (0,) or typecode not in (b"b", "b"):
        raise RefusedError("holds an array that numpy did not write")
    return _reconstruct(np.ndarray, (0,), b"b")  # type: ignore[no-any-return]


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 0 to 2 spell bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"wants the codec {encoding!r}; nothing ran")
    return text.encode("latin-1")


def _storage(data: bytes) -> Any:
    """The memory of a pickled tensor: a file of ``torch.save`` in itself, read without running anything."""
    return _load_torch(data)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Any:
    """A tensor on its memory; gradient flag and hooks are dropped. torch checks the bounds."""
    import torch

    if not isinstance(storage, torch.storage.TypedStorage):
        raise RefusedError("holds a tensor without memory of its own")
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _parameter(tensor: Any, *_: Any) -> Any:
    """A parameter as the plain tensor that it wraps."""
    return tensor


_MULTIARRAY: dict[str, Callable[..., Any]] = {"_reconstruct": _numpy_array, "scalar": scalar}

ADMITTED: dict[str, dict[str, Callable[..., Any]]] = {
    "numpy": {"ndarray": np.ndarray, "dtype": np.dtype},
    "numpy.core.multiarray": _MULTIARRAY,
    "numpy._core.multiarray": _MULTIARRAY,
    "numpy.core.numeric": {"_frombuffer": _frombuffer},
    "numpy._core.numeric": {"_frombuffer": _frombuffer},
    "_codecs": {"encode": _encode},
    "collections": {"OrderedDict": OrderedDict},
    "torch._utils": {"_rebuild_tensor_v2": _tensor, "_rebuild_parameter": _parameter},
    "torch.storage": {"_load_from_bytes": _storage},
}
"""Module → name → what stands in for it: all that a pickle may use."""


def _load_torch(data: bytes) -> Any:
    """A file of ``torch.save``, by torch's own restricted unpickler, on the CPU."""
    import torch

    try:
        with _numpy_admitted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := _UNSUPPORTED.search(str(error)):
            wanted = (found[1] or found[2]).rstrip(".:")
            raise RefusedError(
                f"wants to use {wanted}: only numpy arrays and torch tensors are read; nothing ran"
            ) from None
        raise RefusedError(f"cannot be read by torch: {_first_line(error)}") from None
    except (EOFError, OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise RefusedError(f"is a damaged file of torch.save ({_first_line(error)})") from None


@contextmanager
def _numpy_admitted() -> Iterator[None]:
    """Inside the block, torch's restricted unpickler reads numpy arrays too."""
    import torch

    kinds = [np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1")]
    with torch.serialization.safe_globals(
        [
            np.ndarray,
            np.dtype,
            *(type(kind) for kind in kinds),
            (_reconstruct, "numpy.core.multiarray._reconstruct"),
            (_reconstruct, "numpy._core.multiarray._reconstruct"),
        ]
    ):
        yield


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
