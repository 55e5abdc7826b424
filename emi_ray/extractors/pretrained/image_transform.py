"""Prepare images as model input, like a Hugging Face image processor, but in batches and on the model's device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from emi_ray.errors import UserError

if TYPE_CHECKING:
    import torch

_FILTERS = {2: "bilinear", 3: "bicubic"}
"""PIL's number of a resampling filter → torch's name."""


@dataclass(frozen=True)
class ImageTransform:
    """Resize, centre crop, scale and offset.

    Attributes:
        resize: (height, width), or the length of the shorter side; None keeps the size.
        crop: (height, width) of the centre that is kept; None keeps the whole image. Around an image that is smaller,
            there are zeros before scale and offset.
        filter: torch's name of the resampling filter.
        scale, offset: per channel: input = pixel × scale + offset, with pixels from 0 to 255.
    """

    resize: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    filter: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @classmethod
    def from_processor(cls, processor: Any, whole_image: bool = False) -> "ImageTransform":
        """Create the transform that a Hugging Face image processor describes.

        Args:
            whole_image: resize the whole image to the size that the processor would crop from its centre.

        Raises:
            UserError: the processor uses a filter or a kind of size that this class does not support.
        """
        wanted = processor.to_dict()
        resize = _size(wanted.get("size")) if wanted.get("do_resize") else None
        crop = _size(wanted.get("crop_size")) if wanted.get("do_center_crop") else None
        crop = (crop, crop) if isinstance(crop, int) else crop
        share = wanted.get("crop_pct")  # ConvNeXT: small models get the centre of a larger image
        if share and isinstance(resize, int):
            side = resize
            # As in transformers' ConvNeXT processor: from 384 pixels on, the whole image is resized without a crop.
            resize, crop = (int(side / share), (side, side)) if side < 384 else ((side, side), None)
        if whole_image and crop:
            resize, crop = crop, None
        if resize and wanted.get("resample") not in _FILTERS:
            raise UserError(f"the image processor's resample = {wanted.get('resample')} is not 2 or 3.")
        return cls(resize, crop, _FILTERS.get(wanted.get("resample"), ""), *_scale_and_offset(wanted))

    def __call__(self, images: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
        """Convert (N, H, W, 3) uint8 RGB to (N, 3, h, w) of ``dtype``, on the device of the images.

        The result equals that of the processor. On a GPU a resized pixel may differ by one level of 255, rarely by
        two.
        """
        import torch

        pixels = self._resized_and_cropped(images.permute(0, 3, 1, 2))
        scale, offset = (_per_channel(values, images.device) for values in (self.scale, self.offset))
        return torch.addcmul(offset, pixels.float(), scale).to(dtype)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the input that an image of this size becomes."""
        return self.crop or self._target(height, width)

    def _resized_and_cropped(self, pixels: "torch.Tensor") -> "torch.Tensor":
        from torch.nn.functional import pad

        size = self._target(pixels.shape[2], pixels.shape[3])
        kept = self.crop or size
        # A crop that is larger than the image starts at a negative index.
        starts = [(have - keep) // 2 for have, keep in zip(size, kept, strict=True)]
        rows, columns = (slice(max(0, start), start + keep) for start, keep in zip(starts, kept, strict=True))
        centre = self._resized(pixels, size, rows, columns)
        if min(starts) >= 0:
            return centre
        # Like the processors that use Pillow: the image is surrounded by zeros, of which an odd one comes first.
        above, left = (max(0, -start) for start in starts)
        below, right = kept[0] - above - centre.shape[2], kept[1] - left - centre.shape[3]
        return pad(centre, (left, right, above, below))

    def _resized(
        self, pixels: "torch.Tensor", size: tuple[int, int], rows: slice, columns: slice
    ) -> "torch.Tensor":
        """Resize (N, 3, H, W) to (N, 3, *size), and return the part in ``rows`` and ``columns``."""
        from torch.nn.functional import interpolate

        if size == tuple(pixels.shape[2:]):
            return pixels[:, :, rows, columns]
        if pixels.device.type == "cpu":  # torch has an exact and fast implementation for bytes there
            return interpolate(pixels, size, mode=self.filter, antialias=True)[:, :, rows, columns]
        return resize_in_two_passes(pixels, size, self.filter, rows, columns)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        shorter = self.resize
        if height <= width:
            return shorter, int(shorter * width / height)
        return int(shorter * height / width), shorter


def resize_in_two_passes(
    pixels: "torch.Tensor",
    size: tuple[int, int],
    filter: str,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> "torch.Tensor":
    """Resize bytes (N, 3, H, W) to (N, 3, *size), float32 with integer values, like Pillow and torch's CPU code do.

    They resize the width, round (halves up) and clamp to bytes, then resize the height. A single pass in float32
    differs from that by up to 25 levels where bicubic weights overshoot at an edge.

    Resizing is linear, so each pass is a product with a matrix of weights. On an H100 that is several times as fast
    as ``interpolate``.

    Args:
        rows, columns: the part of the result that is computed.
    """
    import torch

    def to_bytes(values: torch.Tensor) -> torch.Tensor:
        return values.add_(0.5).floor_().clamp_(0, 255)

    height, width = pixels.shape[2:]
    widen = _weights(width, size[1], filter, pixels.device)[:, columns]
    heighten = _weights(height, size[0], filter, pixels.device)[:, rows]
    samples = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    wide = to_bytes(_in_float32(lambda weights: samples @ weights, widen))
    return to_bytes(_in_float32(lambda weights: weights.T @ wide, heighten))


def _in_float32(product: "Callable[[torch.Tensor], torch.Tensor]", weights: "torch.Tensor") -> "torch.Tensor":
    """Return a product of bytes with ``weights`` in the precision of float32, even if TF32 is on.

    Another model of the same process may have switched it on. TF32 keeps 10 bits of a weight, so the rest of each
    weight is a product of its own; bytes are exact.
    """
    import torch

    if not torch.backends.cuda.matmul.allow_tf32:
        return product(weights)
    high = weights.half().float()
    return product(high) + product(weights - high)


# Both functions keep their results on the device: sending them there again would wait until the device has finished
# the batches before.
@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: "torch.device") -> "torch.Tensor":
    """Return (1, C, 1, 1) float32."""
    import torch

    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


@lru_cache(maxsize=64)
def _weights(before: int, after: int, filter: str, device: "torch.device") -> "torch.Tensor":
    """Return the matrix (before, after) that resizes one dimension."""
    import torch
    from torch.nn.functional import interpolate

    # Row i is what becomes of a line of pixels of which only the i-th is 1.
    lines = torch.eye(before, dtype=torch.float64)[None, None]
    return interpolate(lines, (before, after), mode=filter, antialias=True)[0, 0].float().to(device)


def _size(size: Mapping[str, int] | None) -> tuple[int, int] | int:
    size = {key: value for key, value in (size or {}).items() if value is not None}
    if {"height", "width"} <= size.keys():
        return size["height"], size["width"]
    if set(size) == {"shortest_edge"}:
        return size["shortest_edge"]
    raise UserError(f"the image processor's size {dict(size)} is not height and width, or shortest_edge.")


def _scale_and_offset(wanted: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    factor = wanted.get("rescale_factor", 1 / 255) if wanted.get("do_rescale", True) else 1.0
    means, deviations = (0.0,) * 3, (1.0,) * 3
    if wanted.get("do_normalize"):
        means, deviations = wanted["image_mean"], wanted["image_std"]
    scale = tuple(factor / deviation for deviation in deviations)
    return scale, tuple(-mean / deviation for mean, deviation in zip(means, deviations, strict=True))
