"""Pretrained weights: where they lie, exactly which ones they are, and a model out of them.

``torch``, ``transformers`` and ``huggingface_hub`` are imported where they are used, so that naming an
extractor costs nothing.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emi_ray.errors import UserError

if TYPE_CHECKING:
    import torch

HUB_TIMEOUT_S = 3.0
CONTENT = "content:"
"""Prefix of a folder's revision: a hash of what is in it."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
_UNUSED_PARAMETERS = re.compile(r"(^|\.)(pooler\..*|masked_spec_embed|mask_token)$")
"""Parts of checkpoints that no extractor reads: a checkpoint may lack them."""


@dataclass(frozen=True)
class Reach:
    """Where weights can be had from now; ``no`` comes with the problem, as a sentence."""

    place: Literal["folder", "cache", "hub", "no"]
    problem: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Weights by Hugging Face id and revision, or by local folder."""

    weights: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.weights.startswith((".", "/", "~")) or Path(self.weights).is_dir()

    def pinned(self) -> "Checkpoint":
        """The same weights with an exact revision: a commit of the hub, or a hash of a folder's content.

        What the cache holds is preferred to what the hub has now: features do not change by themselves.

        Raises:
            UserError: the weights are not there, or a folder does not hold what its revision says.
        """
        if self.is_folder:
            folder = self._folder()
            return Checkpoint(str(folder), CONTENT + content_hash(folder))
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self
        config = self._cached_config() or self._download_config()
        return replace(self, revision=config.parent.name)

    def locate(self) -> Path:
        """The local folder with the files, downloaded where need be.

        Raises:
            UserError: they cannot be had, or a folder has changed since it was pinned.
        """
        if self.is_folder:
            folder = self._folder()
            if self.revision and self.revision != CONTENT + content_hash(folder):
                raise UserError(
                    f"weights = '{self.weights}' no longer hold what revision '{self.revision}' says. "
                    "Restore them, or drop the revision to extract anew."
                )
            return folder
        return self._snapshot(local=True) or self._snapshot(local=False) or self._refuse("it has no weights")

    def reachable(self) -> Reach:
        """Where the weights can be had from; asks the hub, for seconds at most, if they are not here."""
        try:
            if self.is_folder:
                return Reach("folder" if _has_weights(self._folder()) else "no", "the folder has no weights")
            if self._snapshot(local=True):
                return Reach("cache")
            self._download_config()
        except UserError as error:
            return Reach("no", str(error))
        return Reach("hub")

    def _folder(self) -> Path:
        folder = Path(self.weights).expanduser().resolve()
        if not (folder / "config.json").is_file():
            raise UserError(
                f"weights = '{self.weights}' is no folder with a checkpoint (no config.json in it). Give a "
                "folder that `save_pretrained` wrote and that every node sees, or a Hugging Face id."
            )
        if self.revision and not self.revision.startswith(CONTENT):
            raise UserError(f"revision = '{self.revision}': the folder '{self.weights}' has none. Drop it.")
        return folder

    def _cached_config(self) -> Path | None:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(self.weights, "config.json", revision=self.revision)
        except HFValidationError as error:
            self._refuse(str(error))
        return Path(found) if isinstance(found, str) else None

    def _download_config(self) -> Path:
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(
                self.weights, "config.json", revision=self.revision, etag_timeout=HUB_TIMEOUT_S
            )
        except (OSError, ValueError) as error:
            self._refuse(_first_sentence(error))
        return Path(path)

    def _snapshot(self, local: bool) -> Path | None:
        """The folder of a snapshot with weights; None when the cache, or the repository, has none."""
        from huggingface_hub import snapshot_download

        for weight_files in (None,) if local else _WEIGHT_FILES:
            wanted = None if weight_files is None else [*_SMALL_FILES, weight_files]
            try:
                found = snapshot_download(
                    self.weights, revision=self.revision, allow_patterns=wanted, local_files_only=local
                )
            except (OSError, ValueError) as error:
                if local:
                    return None
                self._refuse(_first_sentence(error))
            if _has_weights(Path(found)):
                return Path(found)
        return None

    def _refuse(self, reason: str) -> Any:
        raise UserError(
            f"weights = '{self.weights}' (revision {self.revision or 'main'}) are not in the Hugging Face "
            f"cache and cannot be had from the hub: {reason} Give a local folder, or run `hf download "
            f"{self.weights}` where there is a network and copy its cache (HF_HOME) here."
        )


def content_hash(folder: Path) -> str:
    """16 hexadecimal digits over all configuration, tokenizer and weight files directly in ``folder``.

    Files are hashed once in a process as long as their sizes and times stay the same (about 1 s a gigabyte).
    """
    files = sorted({path for pattern in (*_SMALL_FILES, *_WEIGHT_FILES) for path in folder.glob(pattern)})
    lines = []
    for path in files:
        status = path.stat()
        lines.append(f"{path.name} {_file_hash(str(path), status.st_size, status.st_mtime_ns)}")
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=1024)
def _file_hash(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()


def best_dtype() -> str:
    """``bfloat16`` where the processor computes in it, else ``float32``.

    The processor is the GPU where there is one. A CPU needs AMX or AVX512-BF16: one that lacks both emulates
    bfloat16, several times slower than float32.
    """
    import torch

    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = bool({"avx512_bf16", "amx_bf16"} & _true(torch.cpu.get_capabilities()))
    return "bfloat16" if fast else "float32"


def choose_device(device: str) -> "torch.device":
    """``auto``: the GPU that this process may use, else the CPU.

    Raises:
        UserError: a CUDA device is asked for and there is none.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device = '{device}': no GPU is visible here. Set device: auto.")
    return torch.device(device)


def load_model(model_class: Any, folder: Path, dtype: str, device: "torch.device") -> Any:
    """A model in inference mode, its weights cast to ``dtype``.

    Args:
        model_class: anything with ``from_pretrained``.

    Raises:
        UserError: the folder is no checkpoint of such a model or lacks weights that the model would use, or
            the CPU has no float16.
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
        raise UserError(f"weights in {folder} cannot be loaded: {_first_sentence(error)}") from error
    lacking = sorted(name for name in report["missing_keys"] if not _UNUSED_PARAMETERS.search(name))
    if lacking:
        raise UserError(
            f"weights in {folder} lack {len(lacking)} parameters of {type(model).__name__}, which would be "
            f"random (first: {lacking[0]}). Give a checkpoint of this architecture."
        )
    return model.eval().requires_grad_(False).to(device)


def load_processor(processor_class: Any, folder: Path) -> Any:
    """A tokenizer, feature extractor or image processor.

    Raises:
        UserError: the folder has none of that kind.
    """
    try:
        with quiet_transformers():
            return processor_class.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        kind = processor_class.__name__.removeprefix("Auto")
        raise UserError(f"{folder} has no usable {kind}: {_first_sentence(error)}") from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and load reports of ``transformers`` inside the block."""
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


def _has_weights(folder: Path) -> bool:
    return any(path for pattern in _WEIGHT_FILES for path in folder.glob(pattern))


def _true(capabilities: Mapping[str, Any]) -> set[str]:
    return {name for name, there in capabilities.items() if there is True}


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no reason given'}."
