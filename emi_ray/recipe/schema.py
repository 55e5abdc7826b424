"""The settings of a recipe as an immutable, validated model. :mod:`emi_ray.recipe.loading` reads them from files."""

from collections.abc import Collection
from typing import Literal

from pydantic import Field, model_validator

from emi_ray.recipe.sections import (
    EncoderSettings,
    FusionSettings,
    ObjectiveSettings,
    PaperResult,
    SplitName,
    StageOverrides,
    TrainingSettings,
    ValidEncoderName,
)
from emi_ray.schema import MODALITIES, EncoderName, Modality
from emi_ray.settings import Settings


class Recipe(Settings):
    """The definition of a system to train.

    ``stages`` selects how it is trained. ``staged`` trains each encoder under a head of its own, then everything
    together. ``frozen`` also trains each encoder first, then only the fusion. ``joint`` trains everything together
    from scratch; the encoders' learning rate is still scaled by ``fusion.encoder_lr_ratio``.

    An encoder is named after its modality, or has another name and sets ``modality``. A recipe may thus have several
    encoders of one modality.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    title: str
    paper: PaperResult | None = None
    encoders: dict[ValidEncoderName, EncoderSettings] = Field(min_length=1)
    fusion: FusionSettings | None = None
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()
    stages: Literal["staged", "joint", "frozen"] = "staged"
    split: SplitName = Field(
        "official",
        description="official: the splits of the corpus; expanded: clips move from val to train until train has four "
        "times as many; pooled: train and val are merged and split again, 4:1",
    )

    @model_validator(mode="after")
    def _several_encoders_need_fusion(self) -> "Recipe":
        if len(self.encoders) > 1 and self.fusion is None:
            raise ValueError("a recipe with several encoders needs a fusion section")
        return self

    @model_validator(mode="after")
    def _correlations_need_random_batches(self) -> "Recipe":
        if self.training.bucket_batches > 1 and self.objective.looks_across_clips:
            raise ValueError(
                f"training.bucket_batches = {self.training.bucket_batches} puts clips of similar length into one "
                "batch, so that objective.ccc, objective.pearson and a loss of your own cannot compare short and "
                "long clips; set it to 1"
            )
        return self

    @model_validator(mode="after")
    def _every_encoder_has_a_modality(self) -> "Recipe":
        for name, encoder in self.encoders.items():
            # These names are used for the stage of the fusion and for the hash of the clips.
            if name in ("fusion", "clips"):
                raise ValueError(f"encoders.{name}: the name is reserved; give the encoder another name")
            if name not in MODALITIES and encoder.modality is None:
                raise ValueError(
                    f"encoders.{name} is not named after a modality ({', '.join(MODALITIES)}): set the modality that "
                    f"it reads, for example encoders.{name}.modality = vision"
                )
            if name in MODALITIES and encoder.modality not in (None, name):
                raise ValueError(
                    f"encoders.{name}.modality = '{encoder.modality}': an encoder that reads {encoder.modality} "
                    f"cannot be called {name}"
                )
        return self

    @model_validator(mode="after")
    def _backbones_suit_their_modality(self) -> "Recipe":
        for name in self.finetuned:
            where, encoder, modality = f"encoders.{name}", self.encoders[name], self.modality_of(name)
            if modality not in ("text", "audio"):
                raise ValueError(
                    f"{where}.type = 'finetune' supports only text (transcripts) and audio (the waveform)"
                )
            if modality == "audio" and encoder.backbone_pooling == "cls":
                raise ValueError(
                    f"{where}.backbone_pooling = 'cls': speech models have no class token; use 'mean'"
                )
        if len(self.of_modality("text", self.finetuned)) > 1:
            raise ValueError("encoders: a recipe can have only one fine-tuned text backbone")
        return self

    @model_validator(mode="after")
    def _steps_and_their_fusion_belong_together(self) -> "Recipe":
        anchored = self.fusion is not None and self.fusion.type == "text_anchored"
        for name, encoder in self.encoders.items():
            allowed = ("steps", "finetune") if anchored and self.modality_of(name) != "text" else ()
            if (encoder.type == "steps" and not allowed) or (allowed and encoder.type not in allowed):
                raise ValueError(
                    f"encoders.{name}.type = '{encoder.type}': with fusion.type = 'text_anchored' every modality "
                    "except text needs 'steps' or 'finetune', and 'steps' is allowed nowhere else"
                )
        late = self.fusion is not None and self.fusion.type == "late"
        if late and (self.stages != "staged" or self.finetuned):
            raise ValueError("fusion.type = 'late' needs stages = 'staged' and encoders on features")
        if anchored and (len(self.of_modality("text")) != 1 or self.stages != "joint"):
            raise ValueError("fusion.type = 'text_anchored' needs one text encoder and stages = 'joint'")
        return self

    def modality_of(self, stream: EncoderName) -> Modality:
        """Return the modality that an encoder reads."""
        named: Modality = self.encoders[stream].modality or stream  # type: ignore[assignment]
        return named

    def of_modality(
        self, modality: Modality, streams: Collection[EncoderName] | None = None
    ) -> list[EncoderName]:
        """Return the names of the encoders that read a modality, limited to ``streams`` if given."""
        return [
            n for n in self.encoders if self.modality_of(n) == modality and (streams is None or n in streams)
        ]

    @property
    def streams(self) -> tuple[EncoderName, ...]:
        """The names of all encoders, ordered by modality, and within a modality as in the recipe."""
        # A fixed order, so that the order in the file does not change the weights.
        return tuple(name for modality in MODALITIES for name in self.of_modality(modality))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that the encoders read, in the order of :data:`emi_ray.schema.MODALITIES`."""
        return tuple(modality for modality in MODALITIES if self.of_modality(modality))

    @property
    def finetuned(self) -> frozenset[EncoderName]:
        """The names of the encoders that fine-tune a pretrained backbone, on transcripts or on the waveform."""
        return frozenset(name for name, encoder in self.encoders.items() if encoder.type == "finetune")

    @property
    def has_custom_code(self) -> bool:
        """Whether an encoder or the loss is code of the user's own."""
        return self.objective.loss is not None or any(e.is_custom for e in self.encoders.values())

    @property
    def extras(self) -> dict[EncoderName, tuple[str, ...]]:
        """The extra columns that are appended to the features, by encoder."""
        return {name: encoder.extras for name, encoder in self.encoders.items() if encoder.extras}

    @property
    def transcript_stream(self) -> EncoderName | None:
        """The name of the encoder that reads transcripts instead of features, or None."""
        return next(iter(self.of_modality("text", self.finetuned)), None)

    def training_of(self, stage: StageOverrides) -> TrainingSettings:
        """Return ``training`` with the overrides of one stage applied."""
        changes = {name: getattr(stage, name) for name in StageOverrides.model_fields}
        return self.training.model_copy(update={k: v for k, v in changes.items() if v is not None})
