"""Selection of the feature store that each encoder of a recipe reads."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.recipe.schema import Recipe
from emi_ray.recipe.sections import EncoderSettings
from emi_ray.schema import EncoderName, Modality
from emi_ray.store.failures import read_failures
from emi_ray.store.feature_store import FeatureStore, find_store, modalities_held, stores_of
from emi_ray.workspace import Workspace

SOUND = "waveform"
"""Name of the extractor that stores the waveform, which a speech backbone reads."""


def find_stores(
    workspace: Workspace, recipe: Recipe, config: WorkspaceConfig
) -> dict[EncoderName, FeatureStore]:
    """Return the feature store of each encoder of a recipe; a fine-tuned text backbone has none.

    An encoder's ``features`` names a fingerprint or an extractor. By default, an encoder reads the only store of its
    modality; if there are several, the one of the workspace's configured extractor, in its newest version. A
    fine-tuned speech backbone reads the store of :data:`SOUND`.

    Raises:
        UserError: there is no such store, several stores fit, or an encoder cannot read the kind of store.
    """
    stores = {
        name: _find(workspace, name, recipe, config)
        for name in recipe.streams
        if name != recipe.transcript_stream
    }
    for name, store in stores.items():
        made_by = store.describe()["extractor"]
        finetunes = name in recipe.finetuned
        if finetunes != (made_by == SOUND):
            takes = f"needs features of '{SOUND}'" if finetunes else f"needs other features than '{SOUND}'"
            raise UserError(
                f"encoders.{name} of type '{recipe.encoders[name].type}' {takes}; the {store.modality} store "
                f"{store.fingerprint} was extracted by '{made_by}'. Name another: encoders.{name}.features=EXTRACTOR."
            )
    return stores


def _wanted(settings: EncoderSettings) -> str | None:
    return settings.features or (SOUND if settings.type == "finetune" else None)


def _find(workspace: Workspace, stream: EncoderName, recipe: Recipe, config: WorkspaceConfig) -> FeatureStore:
    modality, wanted = recipe.modality_of(stream), _wanted(recipe.encoders[stream])
    held = stores_of(workspace, modality)
    if wanted is not None and any(store.fingerprint == wanted for store in held):
        return find_store(workspace, modality, fingerprint=wanted, held=held)
    if wanted is not None:
        if all(store.describe()["extractor"] != wanted for store in held):
            raise UserError(_explain(workspace, modality, wanted, held))
        return find_store(workspace, modality, extractor=wanted, held=held)
    configured = _newest([store for store in held if _is_configured(store, config)])
    if len(held) > 1 and len(configured) == 1:
        return configured[0]
    if not any(store.parts() for store in held) and (lacking := read_failures(workspace, held)).num_rows:
        raise UserError(_without_any(workspace, modality, lacking))
    return find_store(workspace, modality, held=held)


def _without_any(workspace: Workspace, modality: Modality, lacking: pa.Table) -> str:
    """Explain why the extractor of a modality has given no features, although it has processed all clips."""
    reason, count = Counter(lacking["error"].to_pylist()).most_common(1)[0]
    others = ", ".join(modalities_held(workspace))
    recipes = f"Train on others: {others} (emi-ray recipes lists what each recipe reads). " if others else ""
    speech = " Or recognise speech: transcriber.name=whisper." if modality == "text" else ""
    return (
        f"{workspace.root} has no {modality} features: no clip could give any, {count:,} of {lacking.num_rows:,} "
        f"because {reason}. {recipes}Or supply the input and repeat emi-ray init and extract.{speech}"
    )


def _newest(stores: Sequence[FeatureStore]) -> list[FeatureStore]:
    """Return the stores of the newest version of the extractor and of the decoding."""
    versions = [(s.describe().get("version", 0), s.describe().get("media_version", 0)) for s in stores]
    return [store for store, made_by in zip(stores, versions, strict=True) if made_by == max(versions)]


def _explain(workspace: Workspace, modality: Modality, wanted: str, held: Sequence[FeatureStore]) -> str:
    names = ", ".join(str(store.describe()["extractor"]) for store in held) or "none"
    otherwise = "" if wanted == SOUND else " Or train on the features that exist: --any-features."
    return (
        f"The recipe reads {modality} features '{wanted}', but {workspace.root} only has: {names}. "
        f"Extract them: emi-ray extract -w {workspace.quoted} --modalities {modality} "
        f"extractors.{modality}.name={wanted}.{otherwise}"
    )


def _is_configured(store: FeatureStore, config: WorkspaceConfig) -> bool:
    """Return whether a store was extracted by the configured extractor with the configured settings."""
    extractor = config.extractors.get(store.modality)
    made_by = store.describe()
    chosen = {k: v for k, v in extractor.settings.items() if (k, v) != ("dtype", "auto")} if extractor else {}
    media, made = config.media.model_dump(mode="json"), dict(made_by.get("media", {}))
    faces = made.pop("faces", None)
    return (
        extractor is not None
        and made_by["extractor"] == extractor.name
        and chosen.items() <= made_by.get("settings", {}).items()
        and made.items() <= media.items()
        and (faces is None or config.media.faces.fits(faces))
    )
