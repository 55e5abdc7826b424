"""Read pickles of numpy arrays, torch tensors and plain containers of them, without executing anything.

A pickle is a program: it may call any function that its reader can import. Here it may call only the functions that
numpy and torch write for arrays and tensors, and these are replaced by our own, which check their arguments: with
numpy's own, a forged type could make bytes of the file be treated as objects in memory. Anything else is refused by
name before it is imported, so that nothing of it runs.
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

_ZIP_MAGIC = b"PK\x03\x04"
_TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The long integer at the beginning of ``torch.save`` files before they became ZIP archives."""

_UNSUPPORTED = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")
"""Message of torch's restricted unpickler about a name that a file uses."""

_NUMBERS = re.compile(r"[fiu][1248]|b1")


class RefusedError(Exception):
    """The data are not a pickle of arrays. The message is the end of a sentence about the file."""


def load_pickle(data: bytes) -> Any:
    """Load a pickle or a file of ``torch.save``: arrays, tensors, numbers, text and containers.

    Raises:
        RefusedError: it uses anything else, or is damaged.
    """
    if data[:4] == _ZIP_MAGIC or _TORCH_MAGIC in data[:32]:
        return _plain(_load_torch(data))
    try:
        return _plain(_ArrayUnpickler(io.BytesIO(data)).load())
    except pickle.UnpicklingError as error:
        raise RefusedError(f"cannot be unpickled: {_first_line(error)}") from None
    except _DAMAGE as error:
        raise RefusedError(f"is a damaged pickle ({_first_line(error)})") from None


_DAMAGE = (
    *(EOFError, OSError, ValueError, TypeError, AttributeError),
    *(LookupError, MemoryError, OverflowError, RuntimeError),
)
"""Exceptions of the unpickler, numpy and torch that damaged or forged files cause."""


class _ArrayUnpickler(pickle.Unpickler):
    """Resolves only the names in ``ADMITTED``."""

    def find_class(self, module: str, name: str) -> Any:
        found = ADMITTED.get(module, {}).get(name)
        if found is None:
            raise RefusedError(_wanted(f"{module}.{name}"))
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("refers to objects outside itself; nothing ran")


class _Dtype:
    """Replacement of ``numpy.dtype`` that admits only numeric types."""

    def __init__(self, code: str, *_: Any) -> None:
        if not _NUMBERS.fullmatch(code):
            raise RefusedError(f"holds an array of type '{code}', not of numbers")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise RefusedError(f"holds an array of byte order {state[1]!r}")
        self.numpy = self.numpy.newbyteorder(state[1])


class _Array:
    """Replacement of ``numpy.ndarray``: created empty, then filled."""

    values: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.values = _buffer(data, dtype, shape, "F" if is_fortran else "C")


def _blank(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise RefusedError("holds an array of a class of its own")
    return _Array()


def _buffer(data: Any, dtype: _Dtype, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
    """Return an array that uses the memory of ``data``."""
    flat = np.frombuffer(data, dtype.numpy)
    if order == "K" and axis_order is not None:
        return flat.reshape(shape).transpose(axis_order)
    return flat.reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.numpy)[0]


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes as pickles of protocol 0 to 2 spell them."""
    # Looking up any other codec would import a module by a name that the file gives.
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"wants the codec {encoding!r}; nothing ran")
    return text.encode("latin-1")


def _storage(data: bytes) -> Any:
    """Return the memory of a pickled tensor, which is a file of ``torch.save`` itself."""
    return _load_torch(data)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Any:
    """Return a tensor on its memory; gradient flag and hooks are dropped."""
    import torch

    if not isinstance(storage, torch.storage.TypedStorage):
        raise RefusedError("holds a tensor without memory of its own")
    # The largest index that the strides reach; a forged tensor could otherwise read foreign memory.
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= storage._size()):
        raise RefusedError("holds a tensor that leads out of its memory")
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _parameter(tensor: Any, *_: Any) -> Any:
    """Return the plain tensor of a parameter."""
    return tensor


_MULTIARRAY: dict[str, Callable[..., Any]] = {"_reconstruct": _blank, "scalar": _scalar}

ADMITTED: dict[str, dict[str, Callable[..., Any]]] = {
    "numpy": {"ndarray": _Array, "dtype": _Dtype},
    "numpy.core.multiarray": _MULTIARRAY,
    "numpy._core.multiarray": _MULTIARRAY,
    "numpy.core.numeric": {"_frombuffer": _buffer},
    "numpy._core.numeric": {"_frombuffer": _buffer},
    "_codecs": {"encode": _encode},
    "collections": {"OrderedDict": OrderedDict},
    "torch._utils": {"_rebuild_tensor_v2": _tensor, "_rebuild_parameter": _parameter},
    "torch.storage": {"_load_from_bytes": _storage},
}
"""Module → name → replacement: everything that a pickle may use."""


def _plain(value: Any) -> Any:
    """Replace the placeholders in a value by arrays."""
    if isinstance(value, _Array):
        if value.values is None:
            raise RefusedError("holds an array without values")
        return value.values
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    return value


def _load_torch(data: bytes) -> Any:
    """Load a file of ``torch.save`` with torch's own restricted unpickler, on the CPU."""
    import torch

    try:
        with _numpy_admitted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := _UNSUPPORTED.search(str(error)):
            raise RefusedError(_wanted(found[1])) from None
        raise RefusedError(f"cannot be read by torch: {_first_line(error)}") from None
    except _DAMAGE as error:
        raise RefusedError(f"is a damaged file of torch.save ({_first_line(error)})") from None


@contextmanager
def _numpy_admitted() -> Iterator[None]:
    """Let torch's restricted unpickler read numpy arrays too, with the same replacements, while the block runs."""
    import torch

    names = [
        (found, f"{module}.{name}")
        for module, members in ADMITTED.items()
        if module.startswith("numpy")
        for name, found in members.items()
    ]
    with torch.serialization.safe_globals([*names, (_encode, "_codecs.encode")]):
        yield


def _wanted(name: str) -> str:
    return f"wants to use {name}: only numpy arrays and torch tensors are read; nothing ran"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
