"""Read the features of one clip from one file: .npy, .pt, .safetensors, .pkl."""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emi_ray.errors import ClipError
from emi_ray.exchange.pickles import RefusedError, load_pickle

STAGE = "import"
"""Name of the stage in the failures of clips that cannot be imported."""


def read_array(data: bytes, suffix: str) -> np.ndarray:
    """Read the features (T, D) in a file; a vector (D,) is one step.

    Args:
        data: the content of the file.
        suffix: a key of ``READERS``.

    Raises:
        ClipError: the file is damaged or refused, or does not contain exactly one numeric array.
    """
    try:
        return as_steps(READERS[suffix](data))
    except RefusedError as error:
        raise ClipError(STAGE, f"the file {error}") from None


def as_steps(value: Any) -> np.ndarray:
    """Convert an array, a tensor, or a container of one to (T, D) float16, float32 or float64.

    Leading axes of length 1 are dropped: (1, T, D) is (T, D). A list of vectors of equal size is (T, D).

    Raises:
        ClipError: there are several arrays, or the shape or type is not that of features.
    """
    array = _numbers(_single(value))
    while array.ndim > 2 and len(array) == 1:
        array = array[0]
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or 0 in array.shape:
        raise ClipError(STAGE, f"an array of shape {array.shape} is neither (steps, size) nor (size,)")
    return array


def check_range(values: np.ndarray, dtype: np.dtype) -> None:
    """Check that a store of ``dtype`` can represent all values.

    Raises:
        ClipError: a value is NaN, infinite, or rounds to infinity.
    """
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(dtype))
    if finite.all():
        return
    step, place = np.argwhere(~finite)[0]
    value = values[step, place]
    reason = f"exceeds the range of {dtype}" if np.isfinite(value) else "is not a finite number"
    raise ClipError(STAGE, f"value {place} of step {step} is {value:g}: it {reason}")


def _single(value: Any) -> Any:
    """Return the only array in a container; the container itself if it is a list of vectors."""
    if isinstance(value, Mapping):
        arrays = {key: held for key, held in value.items() if _has_axes(held)}
        if len(arrays) != 1:
            found = ", ".join(map(repr, arrays)) or "none"
            raise ClipError(STAGE, f"a dictionary must contain one array; its arrays are: {found}")
        return _single(next(iter(arrays.values())))
    if isinstance(value, list | tuple) and len(value) == 1:
        return _single(value[0])
    return value


def _has_axes(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple) or getattr(value, "ndim", 0) > 0


def _numbers(value: Any) -> np.ndarray:
    if isinstance(value, list | tuple):
        parts = [_numbers(part) for part in value]
        if not parts or len({part.shape for part in parts}) > 1:
            raise ClipError(STAGE, f"a list of {len(parts)} arrays of different shapes is not a single array")
        return np.stack(parts)
    if hasattr(value, "detach"):
        value = _from_torch(value)
    array = np.asarray(value)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype.kind != "f":
        kind = type(value).__name__ if array.dtype.kind in "OUS" else f"array of {array.dtype}"
        raise ClipError(STAGE, f"contains no numbers but: {kind}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _from_torch(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().cpu()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise ClipError(STAGE, f"a tensor of {tensor.dtype}, {tensor.layout} cannot be read")
    # numpy has neither bfloat16 nor types of one byte
    return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()


def _read_npy(data: bytes) -> Any:
    import io

    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise RefusedError(f"is not a numeric .npy file ({error})") from None


def _read_safetensors(data: bytes) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise RefusedError(f"is not a safetensors file ({error})") from None


READERS: Mapping[str, Callable[[bytes], Any]] = {
    ".npy": _read_npy,
    ".pkl": load_pickle,
    ".pickle": load_pickle,
    ".pt": load_pickle,
    ".pth": load_pickle,
    ".safetensors": _read_safetensors,
}
"""Readers by suffix."""
