"""A recipe: everything that decides a trained system, in one YAML file.

Recipes ship in ``emi_ray/recipes/``; any other file works by its path. Later sources win: the recipe file,
then the sections ``training``, ``encoders``, ``fusion`` and ``objective`` of the workspace's
``emi_ray.yaml``, then ``section.key=value`` on the command line. A setting of ``training`` from the workspace
or the command line also wins over what the recipe file says of it for single stages, such as the 100 epochs
of motion.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from emi_ray.config import Settings, apply_overrides, read_yaml, validate
from emi_ray.errors import UserError, choices
from emi_ray.schema import MODALITIES, Modality


class PaperResult(Settings):
    """Where the system stands in the paper, and the mean Pearson correlation it reports."""

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
    patience: int | None = Field(
        10, ge=1, description="epochs without a better val Pearson; null: never stop"
    )
    min_improvement: float = Field(1e-4, ge=0, description="of val Pearson, for an epoch to count as better")
    scheduler: Literal["plateau", "cosine", "constant"] = "plateau"
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    plateau_patience: int = Field(3, ge=0)
    warmup_epochs: int = Field(0, ge=0, description="of the cosine schedule")
    bucket_batches: int = Field(
        8, ge=1, description="batches whose clips are sorted by length together; 1 is a plain shuffle"
    )
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
    is for modalities of one vector a clip (``mean``, then L2 normalisation).
    """

    type: Literal["mlp", "attention", "mean", "mean_std", "last"]
    features: str | None = Field(
        None, description="extractor name or fingerprint; null: what the workspace's extractor made"
    )
    hidden: int = Field(384, ge=1)
    dropout: float = Field(0.45, ge=0, lt=1)
    standardise: bool = Field(
        False, description="scale each feature by the training clips' mean and deviation"
    )
    recurrent: Literal["gru", "lstm"] | None = Field(None, description="a recurrent net before the pooling")
    recurrent_hidden: int = Field(256, ge=1)
    recurrent_layers: int = Field(1, ge=1)
    bidirectional: bool = False
    missing: Literal["skip", "zero"] = Field(
        "skip",
        description="clips without this modality, in its own stage: left out, or a zero vector",
    )


class FusionSettings(StageOverrides):
    """How embeddings become predictions. A modality that a clip lacks is a zero vector before its MLP."""

    type: Literal["concat"] = "concat"
    hidden: int = Field(384, ge=1)
    dropout: float = Field(0.45, ge=0, lt=1)
    modality_dropout: float = Field(
        0.3, ge=0, lt=1, description="of each clip and modality; one is always kept"
    )
    encoder_lr_ratio: float = Field(0.05, ge=0, description="learning rate of the encoders over the head's")


class ObjectiveSettings(Settings):
    """Weights of the losses that are added up; the defaults are the paper's."""

    ccc: float = Field(0.7, ge=0)
    mse: float = Field(0.3, ge=0)
    pearson: float = Field(0.0, ge=0)
    l1: float = Field(0.0, ge=0)
    huber: float = Field(0.0, ge=0)
    huber_delta: float = Field(0.1, gt=0, description="in units of the label's range")

    @model_validator(mode="after")
    def _something_to_minimise(self) -> "ObjectiveSettings":
        if not any((self.ccc, self.mse, self.pearson, self.l1, self.huber)):
            raise ValueError("every weight is 0: nothing to minimise")
        return self


class Recipe(Settings):
    """One system. ``stages``: ``staged`` trains each encoder, then all together; ``frozen`` then trains only
    the fusion; ``joint`` trains all together from scratch, at ``fusion.encoder_lr_ratio`` as given."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    title: str
    paper: PaperResult | None = None
    encoders: dict[Modality, EncoderSettings] = Field(min_length=1)
    fusion: FusionSettings | None = None
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()
    stages: Literal["staged", "joint", "frozen"] = "staged"
    split: Literal["official", "expanded"] = "official"

    @model_validator(mode="after")
    def _several_encoders_need_fusion(self) -> "Recipe":
        if len(self.encoders) > 1 and self.fusion is None:
            raise ValueError("a recipe with several encoders needs a fusion section")
        return self

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities it uses, in the order of the vocabulary."""
        return tuple(modality for modality in MODALITIES if modality in self.encoders)

    def training_of(self, stage: StageOverrides) -> TrainingSettings:
        """``training`` with what the stage does otherwise."""
        changes = {name: getattr(stage, name) for name in StageOverrides.model_fields}
        return self.training.model_copy(update={k: v for k, v in changes.items() if v is not None})


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    folder = resources.files("emi_ray") / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_recipe(
    name_or_path: str,
    overrides: Sequence[str] = (),
    workspace_overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read and check one recipe.

    Args:
        overrides: ``section.key=value``, as in ``training.epochs=3`` or ``encoders.text.hidden=64``.
        workspace_overrides: sections of ``emi_ray.yaml``; what concerns an encoder or a fusion that the
            recipe lacks is passed over.

    Raises:
        UserError: no such recipe, or a setting is unknown or wrong.
    """
    values, where = _read(name_or_path)
    sections = workspace_overrides or {}
    values = _drop_stage_overrides(values, sections.get("training", {}))
    for section, changes in sections.items():
        values = _merge_section(values, section, changes, where)
    _refuse_new_parts(values, overrides, where)
    paths = [override.partition("=")[0] for override in overrides]
    changed = [path.removeprefix("training.") for path in paths if path.startswith("training.")]
    values = _drop_stage_overrides(values, changed)
    return validate(Recipe, apply_overrides(values, overrides), where)


def _read(name_or_path: str) -> tuple[dict[str, Any], str]:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"There is no recipe file {path}.")
        return {"name": path.stem.lower(), **read_yaml(path.read_text(), str(path))}, str(path)
    if name_or_path not in recipe_names():
        raise UserError(f"There is no recipe '{name_or_path}': {choices(name_or_path, recipe_names())}")
    shipped = resources.files("emi_ray") / "recipes" / f"{name_or_path}.yaml"
    where = f"recipe {name_or_path}"
    return {"name": name_or_path, **read_yaml(shipped.read_text(), where)}, where


def _drop_stage_overrides(values: dict[str, Any], changed: Iterable[str]) -> dict[str, Any]:
    """Without what single stages do otherwise, where the user sets it in ``training`` for all."""
    dropped = set(changed) & set(StageOverrides.model_fields)

    def keep(stage: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in stage.items() if key not in dropped}

    encoders = {modality: keep(encoder) for modality, encoder in values.get("encoders", {}).items()}
    result = {**values, "encoders": encoders}
    return {**result, "fusion": keep(values["fusion"])} if values.get("fusion") else result


def _merge_section(
    values: dict[str, Any], section: str, changes: Mapping[str, Any], where: str
) -> dict[str, Any]:
    if section not in ("training", "encoders", "fusion", "objective"):
        raise UserError(f"{where}: a workspace cannot set '{section}' of a recipe.")
    if section == "fusion" and not values.get("fusion"):
        return values
    own = values.get(section) or {}
    if section == "encoders":
        unknown = [name for name in changes if name not in MODALITIES]
        if unknown:
            raise UserError(f"encoders.{unknown[0]}: {choices(unknown[0], MODALITIES)}")
        merged = {name: {**settings, **changes.get(name, {})} for name, settings in own.items()}
    else:
        merged = {**own, **changes}
    return {**values, section: merged}


def _refuse_new_parts(values: Mapping[str, Any], overrides: Sequence[str], where: str) -> None:
    for override in overrides:
        section, *rest = override.partition("=")[0].split(".")
        if section == "encoders" and rest and rest[0] not in values.get("encoders", {}):
            raise UserError(
                f"{override}: {where} has no {rest[0]} encoder: {choices(rest[0], values['encoders'])}"
            )
        if section == "fusion" and rest and not values.get("fusion"):
            raise UserError(f"{override}: {where} has no fusion.")
