"""Which feature store each encoder of a recipe reads."""

from collections.abc import Sequence

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.feature_store import FeatureStore, find_store, stores_of
from emi_ray.recipe import Recipe
from emi_ray.schema import Modality
from emi_ray.workspace import Workspace


def find_stores(
    workspace: Workspace, recipe: Recipe, config: WorkspaceConfig
) -> dict[Modality, FeatureStore]:
    """The store of each modality of a recipe; a backbone that is fine-tuned reads none.

    An encoder's ``features`` names a fingerprint or an extractor. Without it the only store of the modality
    serves; of several, the one that the workspace's configured extractor made.

    Raises:
        UserError: there is none, or several fit.
    """
    return {
        modality: _find(workspace, modality, recipe.encoders[modality].features, config)
        for modality in recipe.modalities
        if recipe.encoders[modality].type != "finetune"
    }


def _find(
    workspace: Workspace, modality: Modality, wanted: str | None, config: WorkspaceConfig
) -> FeatureStore:
    held = stores_of(workspace, modality)
    if wanted is not None and any(store.fingerprint == wanted for store in held):
        return find_store(workspace, modality, fingerprint=wanted)
    if wanted is not None:
        if all(store.describe()["extractor"] != wanted for store in held):
            raise UserError(_explain(workspace, modality, wanted, held))
        return find_store(workspace, modality, extractor=wanted)
    configured = [store for store in held if _is_configured(store, config)]
    if len(held) > 1 and len(configured) == 1:
        return configured[0]
    return find_store(workspace, modality)


def _explain(workspace: Workspace, modality: Modality, wanted: str, held: Sequence[FeatureStore]) -> str:
    names = ", ".join(str(store.describe()["extractor"]) for store in held) or "none"
    return (
        f"encoders.{modality}.features = '{wanted}': {workspace.root} has no such {modality} features, but: {names}. "
        f"Make them: emi-ray extract -w {workspace.root} --modalities {modality} "
        f"extractors.{modality}.name={wanted}. Or train on what there is: --any-features."
    )


def _is_configured(store: FeatureStore, config: WorkspaceConfig) -> bool:
    """Whether a store was made by the configured extractor under the configured settings."""
    extractor = config.extractors.get(store.modality)
    made_by = store.describe()
    media = config.media.model_dump(mode="json")
    return (
        extractor is not None
        and made_by["extractor"] == extractor.name
        and extractor.settings.items() <= made_by.get("settings", {}).items()
        and made_by.get("media", {}).items() <= media.items()
    )
