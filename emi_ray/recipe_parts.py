"""The sections of a recipe: training, encoders, fusion, objective."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from emi_ray.schema import Modality, Stream
from emi_ray.settings import Settings

SplitName = Literal["official", "expanded", "pooled"]

StreamName = Annotated[Stream, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""A name that can stand in paths and in ``encoders.NAME.hidden``."""


SPEECH_STEPS = 600
"""Steps of a clip that a speech backbone reads unless a recipe says otherwise: 12 s of sound. The cost of attention
grows with their square."""


class PaperResult(Settings):
    """Where the system stands in the paper, and the mean Pearson correlation it reports.

    ``source`` names the paper where it is not the one of the tables.
    """

    source: str | None = None
    table: int | None = None
    row: str | None = None
    val_pearson: float | None = None
    test_pearson: float | None = None


class TrainingSettings(Settings):
    """The optimiser and its schedule; the defaults are the paper's."""

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(16, ge=1, description="clips a step, over all workers together")
    lr: float = Field(2e-4, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    grad_clip: float | None = Field(1.0, gt=0, description="largest gradient norm; null: no limit")
    patience: int | None = Field(10, ge=1, description="epochs without a better Pearson; null: never stop")
    min_improvement: float = Field(1e-4, ge=0, description="of Pearson, for an epoch to count as better")
    stop_on: Literal["auto", "inner", "val"] = Field(
        "auto",
        description="clips whose Pearson chooses the best epoch, lowers the rate and ends a stage: an inner part of "
        "train, which then trains nothing, or those of val, on which the run is reported too; auto: an inner part "
        "where it has 400 clips or more",
    )
    inner_share: float = Field(
        0.1, gt=0, lt=1, description="of the training clips, where an inner part stops"
    )
    scheduler: Literal["plateau", "cosine", "constant"] = "plateau"
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    plateau_patience: int = Field(3, ge=0)
    warmup_epochs: int = Field(0, ge=0, description="of the cosine schedule")
    bucket_batches: int = Field(
        1,
        ge=1,
        description="batches whose clips are sorted by length together; 1 draws them at random, and losses that look "
        "across clips (ccc, pearson) take nothing else",
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="validate and keep an exponential moving average of the weights"
    )
    amp: bool = Field(False, description="mixed precision (bfloat16), on GPUs only")
    seed: int = Field(42, ge=0)


class StageOverrides(Settings):
    """What one stage does otherwise than ``training`` says; null: nothing."""

    epochs: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    patience: int | None = Field(None, ge=1)


class EncoderSettings(StageOverrides):
    """How the features (T, D) of one modality become an embedding (hidden,).

    ``type`` says how the steps become one vector: ``attention``, ``mean``, ``mean_std`` or ``last``; ``mlp``
    is for modalities of one vector a clip (``mean``, then L2 normalisation). ``steps`` leaves them as they
    are, for a fusion that attends to steps. ``finetune`` trains a pretrained ``backbone`` on the raw input:
    transcripts for text, the waveform for audio.
    """

    type: Literal["mlp", "attention", "mean", "mean_std", "last", "steps", "finetune"]
    modality: Modality | None = Field(
        None, description="what it reads; null: the encoder is named after its modality, as in encoders.audio"
    )
    features: str | None = Field(
        None, description="extractor name or fingerprint; null: what the workspace's extractor made"
    )
    fusion_lr_ratio: float | None = Field(
        None,
        ge=0,
        description="learning rate in fusion over the head's; null: fusion.encoder_lr_ratio; 0: it stays as its own "
        "stage left it",
    )
    extras: tuple[str, ...] = Field(
        (),
        description="columns of the features, one number a step, that are read as further dimensions: [arousal, "
        "dominance, valence] of wav2vec2-emotion",
    )
    hidden: int = Field(384, ge=1)
    dropout: float = Field(0.45, ge=0, lt=1)
    projection: Literal["mlp", "linear", "none"] = Field(
        "mlp", description="after pooling: the paper's MLP, one linear layer, or nothing"
    )
    standardise: bool = Field(
        False, description="scale each feature by the training clips' mean and deviation"
    )
    recurrent: Literal["gru", "lstm"] | None = Field(None, description="a recurrent net before the pooling")
    recurrent_hidden: int = Field(256, ge=1)
    recurrent_layers: int = Field(1, ge=1)
    bidirectional: bool = False
    max_steps: int | None = Field(
        None,
        ge=1,
        description="later steps of a clip are not looked at; a backbone that is fine-tuned looks at 128 tokens or "
        "600 steps of sound (12 s) at most unless this says otherwise",
    )
    backbone: str | None = Field(
        None, description="finetune: Hugging Face id or folder of a text encoder or speech model"
    )
    backbone_revision: str | None = Field(
        None, description="commit, tag or branch; pinned when a run is planned"
    )
    backbone_pooling: Literal["cls", "mean"] = "cls"
    backbone_lr_ratio: float = Field(0.1, gt=0, description="learning rate of its last layer over the head's")
    layer_decay: float = Field(0.9, gt=0, le=1, description="from each layer to the one before it")
    gradient_checkpointing: bool = Field(False, description="compute layers twice to save memory")
    backbone_config: dict[str, Any] | None = Field(
        None, description="its architecture; filled in when a run is planned"
    )
    missing: Literal["skip", "zero"] = Field(
        "skip",
        description="clips without this modality, in its own stage: left out, or a zero vector",
    )

    @model_validator(mode="after")
    def _finetuning_has_a_backbone(self) -> "EncoderSettings":
        if (self.type == "finetune") != (self.backbone is not None):
            raise ValueError("type = 'finetune' and a backbone go together")
        if self.type == "finetune" and (self.standardise or self.recurrent):
            raise ValueError("type = 'finetune' takes neither standardise nor recurrent")
        return self


class FusionSettings(StageOverrides):
    """How embeddings become predictions.

    ``concat`` joins embeddings. ``text_anchored`` lets the text vector attend to the steps of each other
    modality and joins what it finds. ``late`` weighs the predictions of single modalities, each made by as
    many members as there are ``folds``; of the other settings it uses none.
    """

    type: Literal["concat", "text_anchored", "late"] = "concat"
    folds: int = Field(5, ge=2, le=20, description="of the training clips, under type late")
    hidden: int = Field(384, ge=1)
    dropout: float = Field(0.45, ge=0, lt=1)
    heads: int = Field(4, ge=1, description="of the attention of text_anchored")
    missing: Literal["zero", "token", "mask"] = Field(
        "zero",
        description="what fusion sees of a modality that a clip lacks: its encoder's answer to a zero vector, "
        "a learned token, or zeros and a flag that says so; under text_anchored, what attention finds there is zero",
    )
    modality_dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="of each clip and modality; one of those that the clip has is always kept",
    )
    latents: dict[StreamName, int] = Field(
        default_factory=dict, description="size of an encoder's latent code under objective.latent_prior"
    )
    encoder_lr_ratio: float = Field(0.05, ge=0, description="learning rate of the encoders over the head's")


class ObjectiveSettings(Settings):
    """Weights of the losses that are added up; the defaults are the paper's.

    ``auxiliary`` weighs the same losses of each modality's own prediction, over the clips that have it.
    ``zero_inflated`` makes the model predict "is it above zero" x "how much", and weighs the cross-entropy of the
    first. ``binomial`` weighs the likelihood of labels that are the share of raters who saw an emotion; ``hurdle``
    that of "did anybody see it" and, if so, of how many: either makes predictions probabilities. ``latent_prior``
    weighs the divergence of ``fusion.latents`` from a standard normal distribution.
    """

    ccc: float = Field(0.7, ge=0)
    mse: float = Field(0.3, ge=0)
    pearson: float = Field(0.0, ge=0)
    l1: float = Field(0.0, ge=0)
    huber: float = Field(0.0, ge=0)
    huber_delta: float = Field(0.1, gt=0, description="in units of the label's range")

    binomial: float = Field(0.0, ge=0)
    hurdle: float = Field(0.0, ge=0)
    zero_inflated: float = Field(0.0, ge=0)
    auxiliary: float = Field(0.0, ge=0)
    latent_prior: float = Field(0.0, ge=0)
    memory: int = Field(
        0, ge=0, description="past predictions of the epoch that ccc and pearson count in beside the batch"
    )

    @property
    def looks_across_clips(self) -> bool:
        """Whether a clip's loss depends on which others are in its batch."""
        return self.ccc > 0 or self.pearson > 0

    @model_validator(mode="after")
    def _something_to_minimise(self) -> "ObjectiveSettings":
        if not any((self.ccc, self.mse, self.pearson, self.l1, self.huber, self.binomial, self.hurdle)):
            raise ValueError("every weight is 0: nothing to minimise")
        if self.zero_inflated and (self.binomial or self.hurdle):
            raise ValueError(
                "zero_inflated makes predictions of another kind than binomial and hurdle: choose one"
            )
        return self
