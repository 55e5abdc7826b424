"""Recognise errors whose cause is a device, not a clip, and manage the memory of the device.

``torch`` 2.x has exception types for them; errors of older versions and of other libraries are recognised by their
messages. Nothing is imported for this: a process that has not imported ``torch`` cannot raise its errors.
"""

import gc
import re
import sys
from collections.abc import Callable
from typing import TypeVar

Built = TypeVar("Built")

_NO_ENGINE = "unable to find an engine to execute this computation"
"""cuDNN says this if no engine has a workspace that fits into the free memory, or if it supports no engine at all."""
_FULL = re.compile(
    rf"out of memory|insufficient memory|can't allocate memory|_ALLOC_FAILED|{_NO_ENGINE}", re.IGNORECASE
)
_LIBRARIES = (
    r"(?:CUDA|cuDNN|cuBLAS|CUBLAS|cuFFT|cuSOLVER|cusolver|cuSPARSE|cusparse|NCCL|HIP|hipBLAS|MIOpen|Triton)"
)
"""Case matters: the words of a clip's error may contain "hip" or a path with "cuda"."""
_LOST = re.compile(
    rf"\b{_LIBRARIES} (?:driver |runtime |unknown |internal |kernel )*[Ee]rror|device-side assert|"
    r"\b(?:CUDNN|CUBLAS|CUFFT|CUSOLVER|CUSPARSE)_STATUS_|\bCUFFT_\w+|cudaGetDeviceCount|No CUDA GPUs are available"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the GPU or of the host was exhausted, so that a smaller batch may succeed."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return _is_of_a_library(error) and bool(_FULL.search(str(error)))


def is_certainly_memory(text: str) -> bool:
    """Return whether lack of memory is the only possible cause of an error that :func:`is_out_of_memory` recognises.

    Args:
        text: the message of the error.
    """
    return _NO_ENGINE not in text.lower()


def is_device_lost(error: BaseException) -> bool:
    """Return whether this process can no longer use its GPU.

    After any CUDA error except lack of memory, every further call in the process fails.
    """
    if is_out_of_memory(error):
        return False
    if type(error).__name__ == "AcceleratorError":
        return True
    return _is_of_a_library(error) and bool(_LOST.search(str(error)))


def _is_of_a_library(error: BaseException) -> bool:
    """Return whether ``torch`` or OpenCV may have raised an error; that of OpenCV has a type of its own."""
    return isinstance(error, RuntimeError) or type(error).__module__ == "cv2"


def free_device_memory() -> None:
    """Release the memory that ``torch`` caches on the GPU, if ``torch`` is loaded and uses one."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def build_within_share(share: float, build: Callable[[], Built]) -> Built:
    """Limit this process to a share of its GPU's memory, then call ``build`` and return its result.

    The share includes neither the CUDA context, some hundred MB, nor what other libraries than ``torch`` allocate.
    """
    if share < 1:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(share)
    return build()
