"""The sections of a recipe: training, encoders, fusion, objective."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from emi_ray.custom_code import is_custom
from emi_ray.recipe.custom_types import CustomName, EncoderType, without
from emi_ray.schema import EncoderName, Modality
from emi_ray.settings import Settings

SplitName = Literal["official", "expanded", "pooled"]

ValidEncoderName = Annotated[EncoderName, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Name of an encoder; it can be part of file paths and of setting paths such as ``encoders.NAME.hidden``."""


SPEECH_STEPS = 600
"""Default maximum number of steps of a clip that a speech backbone reads: 12 s of sound. The limit exists because the
cost of attention grows with the square of the number of steps."""


class PaperResult(Settings):
    """The table and row of the system in the paper, and the mean Pearson correlation that the paper reports.

    ``source`` names the paper if it is not the one whose tables ``emi-ray reproduce`` fills. ``says_features`` tells
    whether the paper says which features the system reads.
    """

    source: str | None = None
    says_features: bool = True
    table: int | None = None
    row: str | None = None
    val_pearson: float | None = None
    test_pearson: float | None = None


class TrainingSettings(Settings):
    """Settings of the optimiser, the learning-rate schedule and early stopping; the defaults are the paper's."""

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(16, ge=1, description="clips per optimiser step, summed over all workers")
    lr: float = Field(2e-4, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    grad_clip: float | None = Field(1.0, gt=0, description="maximum norm of the gradient; null: no clipping")
    patience: int | None = Field(
        10,
        ge=1,
        description="epochs without a better Pearson correlation before training stops; null: no early stopping",
    )
    min_improvement: float = Field(
        1e-4, ge=0, description="gain of the Pearson correlation from which an epoch counts as better"
    )
    stop_on: Literal["auto", "inner", "val"] = Field(
        "auto",
        description="clips whose Pearson correlation selects the best epoch, lowers the learning rate and stops a "
        "stage; inner: a part of train that is held out from training; val: the validation clips that scores are "
        "also reported on; auto: inner if that part has at least 400 clips, else val",
    )
    inner_share: float = Field(
        0.1, gt=0, lt=1, description="share of the training clips that is held out with stop_on inner"
    )
    scheduler: Literal["plateau", "cosine", "constant"] = "plateau"
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    plateau_patience: int = Field(3, ge=0)
    warmup_epochs: int = Field(0, ge=0, description="warm-up epochs of the cosine schedule")
    bucket_batches: int = Field(
        1,
        ge=1,
        description="number of batches whose clips are sorted by length together, which saves padding; 1 draws "
        "batches at random, which losses that compare clips of a batch (ccc, pearson) require",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay per step of an exponential moving average of the weights, which is validated and kept "
        "instead of the weights; null: no averaging",
    )
    amp: bool = Field(False, description="mixed precision (bfloat16), on GPUs only")
    seed: int = Field(42, ge=0)


class StageOverrides(Settings):
    """Settings of ``training`` that one stage overrides; null keeps the value of ``training``."""

    epochs: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    patience: int | None = Field(None, ge=1)


class EncoderSettings(StageOverrides):
    """Settings of an encoder, which turns features (T, D) of one modality into an embedding (hidden,).

    ``type`` selects how the T steps are pooled into one vector: ``attention``, ``mean``, ``mean_std`` or ``last``.
    ``mlp`` is for modalities with one vector per clip: ``mean``, then L2 normalisation. ``steps`` does not pool, for
    a fusion that attends to the steps. ``finetune`` fine-tunes a pretrained ``backbone`` on the raw input: the
    transcript for text, the waveform for audio. ``module:Class`` is an encoder of your own, which reads ``settings``.
    """

    type: EncoderType = Field(
        description="mlp, attention, mean, mean_std, last, steps, finetune, or your own encoder as module:Class"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of your own encoder"
    )
    code: str | None = Field(
        None,
        description="hash of the source of your own encoder; filled in when a run is planned, and checked if given",
    )
    modality: Modality | None = Field(
        None,
        description="modality that the encoder reads; null: the one that it is named after, as in encoders.audio",
    )
    features: str | None = Field(
        None,
        description="name or fingerprint of the extractor whose features are read; null: the workspace's extractor",
    )
    fusion_lr_ratio: float | None = Field(
        None,
        ge=0,
        description="learning rate of this encoder in the fusion stage, relative to the head's; null: "
        "fusion.encoder_lr_ratio; 0: the encoder does not learn in the fusion stage",
    )
    extras: tuple[str, ...] = Field(
        (),
        description="extra columns of the features, with one number per step, that are appended as further "
        "dimensions, such as [arousal, dominance, valence] of wav2vec2-emotion",
    )
    hidden: int = Field(384, ge=1)
    dropout: float = Field(0.45, ge=0, lt=1)
    projection: Literal["mlp", "linear", "none"] = Field(
        "mlp", description="layers after pooling: the paper's MLP, one linear layer, or none"
    )
    standardise: bool = Field(
        False,
        description="standardise each feature with its mean and standard deviation over the training clips",
    )
    recurrent: Literal["gru", "lstm"] | None = Field(
        None, description="recurrent net before the pooling; null: none"
    )
    recurrent_hidden: int = Field(256, ge=1)
    recurrent_layers: int = Field(1, ge=1)
    bidirectional: bool = False
    max_steps: int | None = Field(
        None,
        ge=1,
        description="maximum number of steps of a clip; later steps are ignored; null: no limit, but for a "
        "fine-tuned backbone 128 tokens or 600 steps of sound (12 s); a text backbone never reads more tokens than "
        "it has positions",
    )
    backbone: str | None = Field(
        None, description="with type finetune: Hugging Face id or folder of a text encoder or speech model"
    )
    backbone_revision: str | None = Field(
        None, description="commit, tag or branch of the backbone; resolved to a commit when a run is planned"
    )
    backbone_pooling: Literal["cls", "mean"] = "cls"
    backbone_lr_ratio: float = Field(
        0.1, gt=0, description="learning rate of the backbone's last layer, relative to the head's"
    )
    layer_decay: float = Field(
        0.9, gt=0, le=1, description="factor of the learning rate from each layer to the layer before it"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass, which saves memory and costs time"
    )
    backbone_config: dict[str, Any] | None = Field(
        None, description="architecture of the backbone; filled in when a run is planned"
    )
    missing: Literal["skip", "zero"] = Field(
        "skip",
        description="clips without this modality in the encoder's own training stage; skip: they are left out; "
        "zero: they are read as a zero vector",
    )

    @property
    def is_custom(self) -> bool:
        """Whether the encoder is a class of the user's own."""
        return is_custom(self.type)

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return dumped if self.is_custom else without(dumped, ("settings", "code"))

    @model_validator(mode="after")
    def _only_own_encoders_have_settings(self) -> "EncoderSettings":
        if not self.is_custom and (self.settings or self.code):
            raise ValueError(
                f"settings and code belong to an encoder of your own, not to type = '{self.type}'"
            )
        if self.is_custom and self.recurrent:
            raise ValueError("recurrent cannot be combined with an encoder of your own")
        return self

    @model_validator(mode="after")
    def _finetuning_has_a_backbone(self) -> "EncoderSettings":
        if (self.type == "finetune") != (self.backbone is not None):
            raise ValueError("type = 'finetune' needs a backbone, and a backbone needs type = 'finetune'")
        if self.type == "finetune" and (self.standardise or self.recurrent):
            raise ValueError("type = 'finetune' cannot be combined with standardise or recurrent")
        return self


class FusionSettings(StageOverrides):
    """Settings of the fusion, which turns the embeddings of all modalities into predictions.

    ``concat`` concatenates the embeddings. ``text_anchored`` lets the text vector attend to the steps of each other
    modality and concatenates the results. ``late`` takes a weighted sum of the predictions of single modalities. The
    prediction of a modality is the mean over ``folds`` members, each trained on another fold. ``late`` uses no other
    setting.
    """

    type: Literal["concat", "text_anchored", "late"] = "concat"
    folds: int = Field(5, ge=2, le=20, description="with type late: number of folds of the training clips")
    hidden: int = Field(384, ge=1)
    dropout: float = Field(0.45, ge=0, lt=1)
    heads: int = Field(4, ge=1, description="with type text_anchored: number of attention heads")
    missing: Literal["zero", "token", "mask"] = Field(
        "zero",
        description="input of the fusion for a modality that a clip lacks; zero: the encoder's output for a zero "
        "vector (with text_anchored: zeros); token: a learned vector; mask: zeros, and a flag that marks them",
    )
    modality_dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="probability of dropping each modality of a clip during training; at least one modality that the "
        "clip has is always kept",
    )
    latents: dict[ValidEncoderName, int] = Field(
        default_factory=dict,
        description="size of the latent code of an encoder, for use with objective.latent_prior",
    )
    encoder_lr_ratio: float = Field(
        0.05, ge=0, description="learning rate of the encoders in the fusion stage, relative to the head's"
    )


class ObjectiveSettings(Settings):
    """Weights of the losses, whose weighted sum is minimised; the defaults are the paper's.

    ``auxiliary`` is the weight of the same losses for the predictions of single modalities (branches), over the clips
    that have the modality. ``zero_inflated`` makes the model predict the probability of a label above zero times its
    amount, and is the weight of the cross-entropy of that probability. ``binomial`` and ``hurdle`` are for labels
    that are the share of raters who saw an emotion; with either, predictions are probabilities. ``binomial`` is the
    weight of the binomial negative log-likelihood of the share. ``hurdle`` is the weight of the negative
    log-likelihood of a hurdle model: whether any rater saw the emotion, and if so, the share who did.
    ``latent_prior`` is the weight of the Kullback-Leibler divergence of the codes of ``fusion.latents`` from a
    standard normal distribution. ``loss`` is a function of your own, with the weight ``loss_weight``.
    """

    ccc: float = Field(0.7, ge=0)
    mse: float = Field(0.3, ge=0)
    pearson: float = Field(0.0, ge=0)
    l1: float = Field(0.0, ge=0)
    huber: float = Field(0.0, ge=0)
    huber_delta: float = Field(0.1, gt=0, description="as a share of the label's range")

    binomial: float = Field(0.0, ge=0)
    hurdle: float = Field(0.0, ge=0)
    zero_inflated: float = Field(0.0, ge=0)
    auxiliary: float = Field(0.0, ge=0)
    latent_prior: float = Field(0.0, ge=0)
    memory: int = Field(
        0,
        ge=0,
        description="number of earlier predictions of the epoch that ccc and pearson use besides the batch",
    )
    loss: CustomName | None = Field(None, description="your own loss as module:function")
    loss_weight: float = Field(1.0, gt=0, description="weight of your own loss")
    loss_code: str | None = Field(
        None,
        description="hash of the source of your own loss; filled in when a run is planned, and checked if given",
    )

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return dumped if self.loss else without(dumped, ("loss", "loss_weight", "loss_code"))

    @property
    def looks_across_clips(self) -> bool:
        """Whether the loss of a clip depends on the other clips of its batch. A loss of your own may."""
        return self.ccc > 0 or self.pearson > 0 or self.loss is not None

    @model_validator(mode="after")
    def _something_to_minimise(self) -> "ObjectiveSettings":
        weights = (self.ccc, self.mse, self.pearson, self.l1, self.huber, self.binomial, self.hurdle)
        if not any(weights) and self.loss is None:
            raise ValueError("every loss weight is 0: set at least one above 0")
        if self.zero_inflated and (self.binomial or self.hurdle):
            raise ValueError(
                "zero_inflated cannot be combined with binomial or hurdle, whose predictions are probabilities: "
                "choose one"
            )
        return self
