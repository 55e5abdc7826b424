"""What settings leave open is kept as it was when the features that are there were made.

Else it would mean something else on a machine without a GPU, or once the weights of a face detector are there. So
every command computes the same fingerprints, on whatever machine it runs.
"""

from collections.abc import Collection, Iterable, Mapping

from emi_ray.config import MediaSettings, WorkspaceConfig
from emi_ray.extractors import check_settings, specify, specify_transcriber, wants_dtype
from emi_ray.extractors.whisper import WhisperSettings
from emi_ray.feature_store import FeatureStore, stores_of
from emi_ray.schema import Modality
from emi_ray.workspace import Workspace


def with_kept_detector(
    workspace: Workspace, config: WorkspaceConfig, modalities: Collection[Modality]
) -> MediaSettings:
    """The settings of media; where they leave the face detector open, with the one that found the faces of the
    features that the configured extractors have made. Of several, the one of the most clips.

    Raises:
        UserError: an extractor's settings are wrong.
    """
    media = config.media
    if media.faces.detector != "auto":
        return media
    fitting: dict[FeatureStore, Mapping[str, str]] = {}
    for modality in config.extractors.keys() & set(modalities):
        kind, settings = check_settings(modality, config.extractors[modality])
        for store in stores_of(workspace, modality) if "faces" in kind.needs(settings) else ():
            identity = store.describe()
            made = identity.get("media", {}).get("faces")
            by_this = identity["extractor"] == config.extractors[modality].name
            if made and by_this and store.parts() and media.faces.fits(made):
                fitting[store] = made
    if not fitting:
        return media
    made = fitting[max(fitting, key=lambda store: len(store.clip_ids()))]
    return media.model_copy(update={"faces": media.faces.as_made(made)})


def kept_precision(
    workspace: Workspace, config: WorkspaceConfig, modalities: Collection[Modality]
) -> dict[str, str]:
    """By stage, what ``dtype: auto`` meant when the configured extractor made the features that are there.

    Where it has made features in several precisions, those of the most clips count. Stages without features are left
    out.

    Raises:
        UserError: an extractor's settings are wrong, or its weights cannot be had.
    """
    kept: dict[str, str] = {}
    undecided = undecided_stages(config, modalities)
    concerned = {"text" if stage == "transcript" else stage for stage in undecided}
    for modality in config.extractors.keys() & set(modalities) & concerned:
        fitting: dict[FeatureStore, dict[str, str]] = {}
        for store in stores_of(workspace, modality):
            precision = _precision_of(store, undecided)
            if precision and store.parts() and _fingerprint(config, modality, precision) == store.fingerprint:
                fitting[store] = precision
        if fitting:
            kept |= fitting[max(fitting, key=lambda store: len(store.clip_ids()))]
    return kept


def _precision_of(store: FeatureStore, undecided: Iterable[str]) -> dict[str, str]:
    """By undecided stage, in which precision a store's features were made."""
    identity = store.describe()
    made_by = {store.modality: identity, "transcript": identity.get("transcriber") or {}}
    found = {stage: made_by.get(stage, {}).get("settings", {}).get("dtype") for stage in undecided}
    return {stage: dtype for stage, dtype in found.items() if dtype}


def _fingerprint(config: WorkspaceConfig, modality: Modality, precision: Mapping[str, str]) -> str:
    transcriber = None
    if config.transcriber and modality == "text":
        transcriber = specify_transcriber(config.transcriber, config.media, precision.get("transcript"))
    wanted = config.extractors[modality]
    return specify(modality, wanted, config.media, transcriber, precision.get(modality)).fingerprint


def undecided_stages(config: WorkspaceConfig, modalities: Collection[Modality]) -> list[str]:
    """The stages whose settings leave the precision open."""
    undecided: list[str] = [m for m in modalities if m in config.extractors and _is_open(m, config)]
    if config.transcriber and "text" in modalities:
        given = config.transcriber.settings.get("dtype", WhisperSettings().dtype)
        undecided += ["transcript"] if given == "auto" else []
    return undecided


def _is_open(modality: Modality, config: WorkspaceConfig) -> bool:
    kind, settings = check_settings(modality, config.extractors[modality])
    return kind.USES_GPU and wants_dtype(settings)
