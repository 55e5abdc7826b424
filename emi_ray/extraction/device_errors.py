"""Errors that say something of a device and nothing of a clip.

``torch`` names them by type since 2.x; older messages and other libraries are told by their words. Nothing is
imported for it: a process without ``torch`` has none of its errors.
"""

import gc
import re
import sys

_FULL = re.compile(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED", re.IGNORECASE)
_LOST = re.compile(
    r"\b(CUDA|cuDNN|CUBLAS|CUDNN|NCCL|HIP)\b.*error|device-side assert|CUDA driver", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed: memory of the GPU, or of the host, did not suffice."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(_FULL.search(str(error)))


def is_device_lost(error: BaseException) -> bool:
    """Whether this process can no longer use its GPU: after any CUDA error but lack of memory, every call fails."""
    if is_out_of_memory(error):
        return False
    if type(error).__name__ == "AcceleratorError":
        return True
    return isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


def free_device_memory() -> None:
    """Give back what ``torch`` keeps for later, where it is loaded and has a GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
