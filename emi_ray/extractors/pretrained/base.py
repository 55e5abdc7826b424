"""Common parts of all pretrained extractors: settings, identity, choice of layer, batches of similar lengths."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, Field, field_validator

from emi_ray.config import MediaSettings
from emi_ray.errors import UserError
from emi_ray.extractors.base import Extractor
from emi_ray.pretrained_weights.checkpoint import CONTENT, Checkpoint
from emi_ray.pretrained_weights.loading import best_dtype, choose_device, load_model, use_tf32
from emi_ray.settings import Settings

if TYPE_CHECKING:
    import torch

NOT_DECIDING = frozenset({"device", "batch_size"})
"""Settings that change only the speed or the device, and therefore are not part of the identity."""


class PretrainedSettings(Settings):
    """Which weights are used, and how they run. ``batch_size`` counts steps: images, tokens or 20 ms of audio.

    ``revision`` and ``dtype: auto`` are resolved once, where the run is started, and sent to the workers in that
    form, so that nodes with different defaults do not mix features. The nodes that do the work are asked what
    ``dtype: auto`` means.
    """

    weights: str = Field(description="Hugging Face id, or a folder written by save_pretrained")
    revision: str | None = Field(None, description="commit, tag or branch; pinned to a commit when run")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="auto: bfloat16 if the processor supports it, else float32 (on a GPU with TF32)",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    batch_size: int | None = Field(
        None, ge=1, description="steps per forward pass; null: chosen for the device"
    )

    @field_validator("device")
    @classmethod
    def _names_no_other_gpu(cls, device: str) -> str:
        # Without this, "invalid device ordinal" would count as the loss of a device.
        if device.partition(":")[2] not in ("", "0"):
            raise ValueError(
                "Ray assigns the GPUs, and each process sees its own as number 0. Set device: cuda"
            )
        return device


class LayerSettings(PretrainedSettings):
    """Settings of a pretrained model with a choice of layer."""

    layer: Literal["last", "mean"] | int = Field(
        "last",
        description="last: the output; mean: the mean of all layers; N: layer N (0: embeddings)",
    )


AnyPretrained = TypeVar("AnyPretrained", bound=PretrainedSettings)


def definite_dtype(dtype: str) -> str:
    """Return ``dtype``, or what ``auto`` means on this machine."""
    return best_dtype() if dtype == "auto" else dtype


def resolve_pretrained(settings: AnyPretrained) -> AnyPretrained:
    """Return ``settings`` with an exact revision of the weights and a definite dtype.

    Raises:
        UserError: the weights are not available, or have no such layer.
    """
    exact = Checkpoint(settings.weights, settings.revision).pinned()
    if isinstance(num_layers := exact.read_json("config.json").get("num_hidden_layers"), int):
        check_layer(getattr(settings, "layer", "last"), num_layers)
    dtype = definite_dtype(settings.dtype)
    return settings.model_copy(update={"weights": exact.weights, "revision": exact.revision, "dtype": dtype})


def check_pretrained(settings: PretrainedSettings) -> list[str]:
    """Return the reason why these weights cannot be used now, if there is one."""
    reach = Checkpoint(settings.weights, settings.revision).reachable()
    return [reach.problem or "the weights are not available"] if reach.place == "no" else []


def deciding_pretrained(identity: dict[str, Any]) -> dict[str, Any]:
    """Remove from an identity the settings that never change an output.

    The path of a local folder is kept, but is marked as ``not_deciding``.
    """
    settings = {key: value for key, value in identity["settings"].items() if key not in NOT_DECIDING}
    hidden = ["weights"] if str(settings["revision"]).startswith(CONTENT) else []
    return {**identity, "settings": settings, **({"not_deciding": hidden} if hidden else {})}


class Pretrained(Extractor):
    """Base class of extractors around a frozen ``transformers`` model.

    Features do not depend, beyond rounding, on which clips share a batch. A subclass defines with ``_model_class``
    how the model is loaded, with ``_BATCH_SIZE`` how many steps suit a CPU and a GPU, and with ``_PASS_COST`` how
    many steps the overhead of one forward pass is worth on each.
    """

    USES_GPU = True
    Settings: ClassVar[type[BaseModel]] = PretrainedSettings
    _BATCH_SIZE: ClassVar[tuple[int, int]]
    _PASS_COST: ClassVar[tuple[int, int]] = (0, 0)

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._folder = Checkpoint(settings.weights, settings.revision).locate()
        self._device = choose_device(settings.device)
        dtype = definite_dtype(settings.dtype)
        use_tf32(self._device, dtype)
        self._model = load_model(self._model_class(), self._folder, dtype, self._device)
        self._batch_size = settings.batch_size or self._BATCH_SIZE[self._device.type == "cuda"]

    @classmethod
    def resolve(cls, settings: Any) -> Any:
        return resolve_pretrained(settings)

    @classmethod
    def check(cls, settings: Any) -> list[str]:
        return check_pretrained(settings)

    @classmethod
    def identity(cls, settings: BaseModel, media: MediaSettings) -> dict[str, Any]:
        return deciding_pretrained(super().identity(settings, media))

    @property
    def feature_dim(self) -> int:
        return int(self._model.config.hidden_size)

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the indices of items of these lengths, one list per forward pass."""
        return batches_by_length(lengths, self._batch_size, self._PASS_COST[self._device.type == "cuda"])

    def use_less_memory(self) -> bool:
        """Halve the number of steps per forward pass."""
        if self._batch_size <= 1:
            return False
        self._batch_size //= 2
        return True

    def _model_class(self) -> Any:
        from transformers import AutoModel

        return AutoModel


def check_layer(layer: str | int, num_layers: int) -> None:
    """Check that the model has the layer.

    Raises:
        UserError: it does not.
    """
    if isinstance(layer, int) and not -num_layers <= layer <= num_layers:
        raise UserError(f"layer = {layer}: the model has layers 0 (embeddings) to {num_layers}.")


def select_layer(output: Any, layer: str | int) -> "torch.Tensor":
    """Return the hidden states of one layer of a model's output, or the mean over all layers."""
    import torch

    if layer == "last":
        return output.last_hidden_state
    if layer == "mean":
        return torch.stack(output.hidden_states[1:]).mean(0)
    return output.hidden_states[layer]


def batches_by_length(lengths: Sequence[int], budget: int, pass_cost: int) -> list[list[int]]:
    """Group items of similar length into batches, longest first, so that all forward passes together cost least.

    A pass costs the number of items × longest item steps (padding included) plus ``pass_cost``. With the items
    sorted by length, dynamic programming finds the cheapest cuts.

    Args:
        lengths: (N) length of each item.
        budget: largest number of items × longest item of a batch; a single item may exceed it.
        pass_cost: overhead of a pass (launching its kernels, reading the weights), in steps.

    Returns:
        Indices of the items, one list per batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    longest = np.array([lengths[index] for index in order])
    cost = np.zeros(len(order) + 1)
    starts = np.zeros(len(order) + 1, int)  # starts[n]: start of the last batch when n items are cut cheapest
    first = 0
    for stop in range(1, len(order) + 1):
        while first < stop - 1 and longest[first] * (stop - first) > budget:
            first += 1
        candidates = np.arange(first, stop)
        costs = cost[first:stop] + longest[first:stop] * (stop - candidates) + pass_cost
        chosen = int(np.argmin(costs))
        starts[stop], cost[stop] = first + chosen, costs[chosen]
    batches: list[list[int]] = []
    stop = len(order)
    while stop:
        batches.append(order[starts[stop] : stop])
        stop = starts[stop]
    return batches[::-1]
