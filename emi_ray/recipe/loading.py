"""A recipe: the complete definition of a system to train, in one YAML file.

The package ships recipes in ``emi_ray/recipes/``; any other YAML file is named by its path. Settings are taken from
three sources, each of which overrides the ones before it: the recipe file; the sections ``training``, ``encoders``,
``fusion`` and ``objective`` of the workspace's ``emi_ray.yaml``; and ``section.key=value`` on the command line. A
setting of ``training`` from the workspace or the command line also overrides the recipe's settings for single
stages, such as the 100 epochs of the motion encoder.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from emi_ray.errors import UserError, choices
from emi_ray.recipe.checks import unread_settings
from emi_ray.recipe.schema import Recipe
from emi_ray.recipe.sections import (
    StageOverrides,
)
from emi_ray.schema import MODALITIES
from emi_ray.settings import Override, path_of, read_yaml, validate

OTHER_FEATURES = " (on other features than it names)"
"""Suffix of the title of a recipe that is trained on features of another extractor than it names."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship with the package, sorted."""
    folder = resources.files("emi_ray") / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_recipe(
    name_or_path: str,
    overrides: Sequence[str | Override] = (),
    workspace_overrides: Mapping[str, Any] | None = None,
    any_features: bool = False,
) -> Recipe:
    """Read and check one recipe.

    Args:
        name_or_path: name of a shipped recipe, or path of a file that ends in ``.yaml`` or ``.yml``.
        overrides: settings as text, such as ``training.epochs=3`` or ``encoders.text.hidden=64``, or as
            :class:`emi_ray.settings.Override`.
        workspace_overrides: sections of ``emi_ray.yaml``. Settings for an encoder or a fusion that the recipe does
            not have, or that have no effect on this recipe, are ignored.
        any_features: ignore the extractors and extra columns that the recipe names, and read the workspace's default
            features. If the features differ from the recipe's own, :data:`OTHER_FEATURES` is added to its title.

    Raises:
        UserError: there is no such recipe, or a setting is unknown, invalid, or without effect.
    """
    values, where = _read(name_or_path)
    sections = workspace_overrides or {}
    # Before the merge, so that a stage's own value in the workspace itself still holds.
    values = _drop_stage_overrides(values, sections.get("training", {}))
    for section, changes in sections.items():
        values = _merge_section(values, section, changes, where)
    # An override of an unknown encoder would otherwise define a new one.
    _refuse_new_parts(values, overrides, where)
    paths = [path_of(override) for override in overrides]
    # A setting of training on the command line also replaces those of single stages.
    changed = [path.removeprefix("training.") for path in paths if path.startswith("training.")]
    values = _drop_stage_overrides(values, changed)
    recipe = _validate_read(_drop_resolved(values, paths), where, overrides, sections)
    named = {m: encoder.get("features") for m, encoder in values["encoders"].items()}
    if any_features:
        nothing = {"features": None, "extras": ()}
        encoders = {m: e.model_copy(update=nothing) for m, e in recipe.encoders.items()}
        recipe = recipe.model_copy(update={"encoders": encoders})
    if any(name not in (None, recipe.encoders[m].features) for m, name in named.items()):
        return recipe.model_copy(update={"title": recipe.title + OTHER_FEATURES})
    return recipe


def _read(name_or_path: str) -> tuple[dict[str, Any], str]:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"There is no recipe file {path}.")
        # A name within the file wins over the name of the file.
        return {"name": path.stem.lower(), **read_yaml(path.read_text(), str(path))}, str(path)
    if name_or_path not in recipe_names():
        raise UserError(f"There is no recipe '{name_or_path}': {choices(name_or_path, recipe_names())}")
    shipped = resources.files("emi_ray") / "recipes" / f"{name_or_path}.yaml"
    where = f"recipe {name_or_path}"
    return {"name": name_or_path, **read_yaml(shipped.read_text(), where)}, where


def _validate_read(
    values: dict[str, Any], where: str, overrides: Sequence[str | Override], workspace: Mapping[str, Any]
) -> Recipe:
    """Validate a recipe and handle its settings that have no effect.

    A setting without effect is dropped if it comes from the workspace, which sets it for all recipes. It is also
    dropped if it comes from the recipe file and an override made it ineffective: for example, ``stages=joint``
    removes the encoders' own stages, so their ``epochs`` have no effect. Any other setting without effect is refused.

    Raises:
        UserError: a setting is unknown or invalid, or the recipe or an override sets something that has no effect.
    """
    recipe = validate(Recipe, values, where, overrides)
    given = {path_of(override) for override in overrides}
    as_written = (
        # What has no effect already without the overrides is a mistake in the file.
        {path for path, _, _ in unread_settings(validate(Recipe, values, where))} if overrides else None
    )
    refused = []
    for path, value, why in unread_settings(recipe):
        parts = path.split(".")
        replaced = as_written is not None and path not in as_written and _holds(values, parts)
        if path not in given and (replaced or _holds(workspace, parts)):
            values = _without(values, parts)
        else:
            refused.append(f"{where}: {path} = {value!r} has no effect: {why}. Remove it.")
    if refused:
        raise UserError("\n".join(refused))
    return validate(Recipe, values, where, overrides)


def _holds(values: Mapping[str, Any], parts: Sequence[str]) -> bool:
    inner = values.get(parts[0])
    return parts[0] in values and (
        len(parts) == 1 or (isinstance(inner, Mapping) and _holds(inner, parts[1:]))
    )


def _without(values: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    if len(parts) == 1:
        return {key: value for key, value in values.items() if key != parts[0]}
    return {**values, parts[0]: _without(values[parts[0]], parts[1:])}


def _drop_stage_overrides(values: dict[str, Any], changed: Iterable[str]) -> dict[str, Any]:
    """Remove settings of single stages that the user also sets in ``training``, so that the user's value holds."""
    dropped = set(changed) & set(StageOverrides.model_fields)

    def keep(stage: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in stage.items() if key not in dropped}

    encoders = {modality: keep(encoder) for modality, encoder in values.get("encoders", {}).items()}
    result = {**values, "encoders": encoders}
    return {**result, "fusion": keep(values["fusion"])} if values.get("fusion") else result


def _drop_resolved(values: dict[str, Any], changed: Iterable[str]) -> dict[str, Any]:
    """Remove what was resolved of a backbone, or of code of the user's own, if the user names another."""
    encoders = dict(values.get("encoders", {}))
    for modality, encoder in encoders.items():
        if f"encoders.{modality}.backbone" in changed:
            resolved = ("backbone_config", "backbone_revision")
            encoders[modality] = {key: value for key, value in encoder.items() if key not in resolved}
        if f"encoders.{modality}.type" in changed:
            encoders[modality] = {key: value for key, value in encoders[modality].items() if key != "code"}
    result = {**values, "encoders": encoders}
    if "objective.loss" in changed and values.get("objective"):
        result["objective"] = {key: value for key, value in values["objective"].items() if key != "loss_code"}
    return result


def _merge_section(
    values: dict[str, Any], section: str, changes: Mapping[str, Any], where: str
) -> dict[str, Any]:
    if section not in ("training", "encoders", "fusion", "objective"):
        raise UserError(f"{where}: a workspace cannot set '{section}' of a recipe.")
    # A workspace sets the fusion for all recipes, also for those that have none.
    if section == "fusion" and not values.get("fusion"):
        return values
    own = values.get(section) or {}
    if section == "encoders":
        unknown = [name for name in changes if name not in MODALITIES and name not in own]
        if unknown:
            raise UserError(f"encoders.{unknown[0]}: {choices(unknown[0], MODALITIES)}")
        merged = {name: {**settings, **changes.get(name, {})} for name, settings in own.items()}
    else:
        merged = {**own, **changes}
    return {**values, section: merged}


def _refuse_new_parts(values: Mapping[str, Any], overrides: Sequence[str | Override], where: str) -> None:
    for override in overrides:
        section, *rest = path_of(override).split(".")
        if section == "encoders" and rest and rest[0] not in values.get("encoders", {}):
            raise UserError(
                f"{override}: {where} has no {rest[0]} encoder: {choices(rest[0], values['encoders'])}"
            )
        if section == "fusion" and rest and not values.get("fusion"):
            raise UserError(f"{override}: {where} has no fusion.")
