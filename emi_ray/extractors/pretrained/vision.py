"""Image backbones from ``transformers``: one vector per face crop or whole frame."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field

from emi_ray.errors import UserError
from emi_ray.extractors.base import Features
from emi_ray.extractors.pretrained.base import LayerSettings, Pretrained, check_layer, select_layer
from emi_ray.extractors.pretrained.device import features_to_host, to_device
from emi_ray.extractors.pretrained.image_transform import ImageTransform
from emi_ray.media.clip import DecodedClip, Faces, Frames
from emi_ray.pretrained_weights.loading import load_processor
from emi_ray.schema import Need

if TYPE_CHECKING:
    import torch

_CLASS_TOKENS = ("cls_token", "class_embedding")


class VisionSettings(LayerSettings):
    """How an image becomes one vector."""

    pooling: Literal["cls", "mean"] = Field(
        "cls", description="cls: the class token; mean: the mean over patches"
    )
    whole_image: bool = Field(
        False, description="resize the whole image instead of keeping only its centre as the processor would"
    )


class VisionBackbone(Pretrained):
    """An image backbone, applied to the images in ``NEEDS``: one step per image, at the time of its frame.

    Images are prepared according to the checkpoint's image processor.
    """

    MODALITY = "vision"
    Settings: ClassVar[type[BaseModel]] = VisionSettings
    _BATCH_SIZE = (16, 512)

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        from transformers import AutoImageProcessor

        self._model = getattr(self._model, "vision_model", self._model)
        processor = load_processor(AutoImageProcessor, self._folder)
        self._transform = ImageTransform.from_processor(processor, settings.whole_image)
        self._num_prefix_tokens = self._count_prefix_tokens()
        check_layer(settings.layer, getattr(self._model.config, "num_hidden_layers", 0))

    @property
    def feature_dim(self) -> int:
        config = self._model.config
        return int(getattr(config, "hidden_size", None) or config.hidden_sizes[-1])

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """Compute features (T, D) of each clip, one step per image, in the dtype of
        :func:`~emi_ray.extractors.pretrained.device.features_to_host`.

        Images of several clips share a forward pass if they become inputs of one size.
        """
        import torch

        sources = [self._images(clip) for clip in clips]
        images = [source.crops if isinstance(source, Faces) else source.pixels for source in sources]
        # A processor that keeps the aspect ratio gives clips different input sizes, and a pass takes only one.
        sizes = [self._transform.output_size(*part.shape[1:3]) for part in images]
        order = sorted(range(len(clips)), key=sizes.__getitem__)
        with torch.inference_mode():
            vectors = [
                self._forward(parts)
                for _, alike in groupby(order, key=sizes.__getitem__)
                for parts in _chunks([images[index] for index in alike], self._batch_size)
            ]
            [values], _ = features_to_host([torch.cat(vectors)], self._model.dtype)
        ends = np.cumsum([len(images[index]) for index in order])
        by_clip = dict(zip(order, np.split(values, ends[:-1]), strict=True))
        return [
            Features(by_clip[index], source.timestamps_s.astype(np.float32))
            for index, source in enumerate(sources)
        ]

    def _images(self, clip: DecodedClip) -> Faces | Frames:
        source = clip.frames if "frames" in self.needs(self.settings) else clip.faces
        assert source is not None, "the caller gives every clip its needs"
        return source

    def _forward(self, parts: list[np.ndarray]) -> "torch.Tensor":
        import torch

        images = to_device(parts, self._device)
        if len({part.shape[1:] for part in images}) == 1:
            images = [
                torch.cat(images)
            ]  # each launch of a kernel costs the host more than the copy the device
        prepared = [self._transform(part, self._model.dtype) for part in images]
        every_layer = self.settings.layer != "last"
        output = self._model(pixel_values=torch.cat(prepared), output_hidden_states=every_layer)
        hidden = select_layer(output, self.settings.layer)
        if hidden.ndim == 4:  # (N, D, h, w) of a convolutional backbone
            return hidden.mean((2, 3))
        if self.settings.pooling == "cls":
            return hidden[:, 0].contiguous()  # a view would keep the whole output in memory
        return hidden[:, self._num_prefix_tokens :].mean(1)

    def _count_prefix_tokens(self) -> int:
        """Return the number of tokens before the patches: class token, registers, distillation token.

        Raises:
            UserError: ``pooling`` asks for a class token and there is none.
        """
        names = {name.rpartition(".")[2] for name, _ in self._model.named_parameters()}
        if not names & set(_CLASS_TOKENS):
            if self.settings.pooling == "cls":
                raise UserError(
                    f"weights = '{self.settings.weights}' have no class token. Set pooling: mean."
                )
            return 0
        # Registers stand between the class token and the patches.
        registers = getattr(self._model.config, "num_register_tokens", 0)
        return 1 + registers + ("distillation_token" in names)


class HfVisionSettings(VisionSettings):
    """Settings of any backbone, on faces or frames."""

    input: Literal["faces", "frames"] = "faces"


class HfVision(VisionBackbone):
    """Any image backbone that ``AutoModel`` loads.

    Of a model with two towers (CLIP, SigLIP) the vision tower is used. A convolutional backbone has neither a class
    token nor layers to choose from: set ``pooling: mean``.
    """

    NAME = "hf-vision"
    NEEDS = frozenset({"faces"})
    LICENCE = "that of the weights"
    Settings = HfVisionSettings

    @classmethod
    def needs(cls, settings: Any) -> frozenset[Need]:
        return frozenset({settings.input})


class Dinov2Settings(VisionSettings):
    """Settings of DINOv2-base."""

    weights: str = "facebook/dinov2-base"


class Dinov2Face(VisionBackbone):
    """DINOv2 on face crops."""

    NAME = "dinov2-face"
    NEEDS: ClassVar[frozenset[Need]] = frozenset({"faces"})
    LICENCE = "Apache-2.0"
    DIM = 768
    Settings = Dinov2Settings


class Dinov2Frame(Dinov2Face):
    """DINOv2 on whole frames."""

    NAME = "dinov2-frame"
    NEEDS = frozenset({"frames"})


class VitFaceSettings(VisionSettings):
    """Settings of a ViT-base that is fine-tuned on facial expressions."""

    weights: str = "trpakov/vit-face-expression"


class VitFace(VisionBackbone):
    """ViT on face crops."""

    NAME = "vit-face"
    NEEDS = frozenset({"faces"})
    LICENCE = "Apache-2.0"
    DIM = 768
    Settings = VitFaceSettings


def _chunks(images: Sequence[np.ndarray], most: int) -> Iterator[list[np.ndarray]]:
    """Yield the images of all clips in order, in equal numbers of at most ``most``, as views of the clips' arrays."""
    total = sum(map(len, images))
    size = math.ceil(total / math.ceil(total / most))
    chunk: list[np.ndarray] = []
    room = size
    for array in images:
        start = 0
        while start < len(array):
            part = array[start : start + room]
            chunk.append(part)
            start, room = start + len(part), room - len(part)
            # A chunk may contain images of several clips, and a clip may be in several chunks.
            if room == 0:
                yield chunk
                chunk, room = [], size
    if chunk:
        yield chunk
