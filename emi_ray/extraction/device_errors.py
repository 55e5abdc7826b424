"""Recognise errors whose cause is a device, not a clip.

``torch`` 2.x has exception types for them; errors of older versions and of other libraries are recognised by their
messages. Nothing is imported for this: a process that has not imported ``torch`` cannot raise its errors.
"""

import gc
import re
import sys

_FULL = re.compile(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED", re.IGNORECASE)
_LOST = re.compile(
    r"\b(CUDA|cuDNN|CUBLAS|CUDNN|NCCL|HIP)\b.*error|device-side assert|CUDA driver", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the GPU or of the host was exhausted, so that a smaller batch may succeed."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(_FULL.search(str(error)))


def is_device_lost(error: BaseException) -> bool:
    """Return whether this process can no longer use its GPU.

    After any CUDA error except lack of memory, every further call in the process fails.
    """
    if is_out_of_memory(error):
        return False
    if type(error).__name__ == "AcceleratorError":
        return True
    return isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


def free_device_memory() -> None:
    """Release the memory that ``torch`` caches on the GPU, if ``torch`` is loaded and uses one."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
