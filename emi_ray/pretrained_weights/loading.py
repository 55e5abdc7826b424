"""Load a ``transformers`` model on the right device and in the right precision.

``torch`` and ``transformers`` are imported on use, so that naming a checkpoint is cheap.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emi_ray.errors import UserError
from emi_ray.pretrained_weights.checkpoint import first_sentence

if TYPE_CHECKING:
    import torch

# Poolers and masked-training parameters; position_ids are a buffer that old checkpoints stored.
_UNUSED_PARAMETERS = re.compile(r"(^|\.)(pooler\..*|masked_spec_embed|mask_token|position_ids)$")
"""Parameters that are never used here, so that a checkpoint may lack them."""


def best_dtype() -> str:
    """Return ``bfloat16`` if the processor supports it natively, else ``float32``.

    The processor is the GPU if there is one. A CPU needs AMX or AVX512-BF16; without them bfloat16 is emulated,
    several times slower than float32.
    """
    import torch

    if torch.cuda.is_available():
        # Emulation would count as support, although it is slower than float32.
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = bool({"avx512_bf16", "amx_bf16"} & _true(torch.cpu.get_capabilities()))
    return "bfloat16" if fast else "float32"


def choose_device(device: str) -> "torch.device":
    """Return the device; ``auto`` is the GPU that this process may use, else the CPU.

    Raises:
        UserError: a CUDA device is given and there is none.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device = '{device}': no GPU is visible here. Set device: auto.")
    return torch.device(device)


def use_tf32(device: "torch.device", dtype: str) -> None:
    """Let a GPU multiply float32 with the precision of TF32: eight times as fast on an A100 or H100.

    TF32 has 10 bits of mantissa, as many as a stored float16 feature.
    """
    import torch

    if device.type == "cuda" and dtype == "float32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True


def load_model(model_class: Any, folder: Path, dtype: str, device: "torch.device") -> Any:
    """Load a model for inference, with its weights cast to ``dtype``.

    Args:
        model_class: a class with ``from_pretrained``.

    Raises:
        UserError: the folder has no checkpoint of such a model, it lacks weights that the model uses, or the
            CPU does not support float16.
    """
    import torch

    if dtype == "float16" and device.type == "cpu" and not torch.cpu.get_capabilities().get("amx_fp16"):
        raise UserError("dtype = 'float16' is hundreds of times slower on this CPU. Set dtype: auto.")
    try:
        with quiet_transformers():
            model, report = model_class.from_pretrained(
                folder, dtype=getattr(torch, dtype), output_loading_info=True, trust_remote_code=False
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"weights in {folder} cannot be loaded: {first_sentence(error)}") from error
    # transformers only warns about missing weights and initialises them at random.
    lacking = sorted(name for name in report["missing_keys"] if not _UNUSED_PARAMETERS.search(name))
    if lacking:
        raise UserError(
            f"weights in {folder} lack {len(lacking)} parameters of {type(model).__name__}, which would be "
            f"random (first: {lacking[0]}). Give a checkpoint of this architecture."
        )
    return model.eval().requires_grad_(False).to(device)


def load_processor(processor_class: Any, folder: Path) -> Any:
    """Load a tokenizer, feature extractor or image processor.

    Raises:
        UserError: the folder has none of that kind.
    """
    try:
        with quiet_transformers():
            return processor_class.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        kind = processor_class.__name__.removeprefix("Auto")
        raise UserError(f"{folder} has no usable {kind}: {first_sentence(error)}") from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress progress bars and load reports of ``transformers`` while the block runs."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _true(capabilities: Mapping[str, Any]) -> set[str]:
    return {name for name, there in capabilities.items() if there is True}
