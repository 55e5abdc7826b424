"""Settings that are left open (``auto``) keep the value that existing features were made with.

Otherwise ``auto`` would mean something else on a machine without a GPU, or after the weights of a face detector were
installed. With this rule every command computes the same fingerprints on any machine.
"""

from collections.abc import Collection, Iterable, Mapping

from emi_ray.config import MediaSettings, WorkspaceConfig
from emi_ray.extractors import check_settings, specify, specify_transcriber, wants_dtype
from emi_ray.extractors.pretrained.whisper import WhisperSettings
from emi_ray.schema import Modality
from emi_ray.store.feature_store import FeatureStore, stores_of
from emi_ray.workspace import Workspace


def with_kept_detector(
    workspace: Workspace, config: WorkspaceConfig, modalities: Collection[Modality]
) -> MediaSettings:
    """Return the media settings, with an open choice of face detector fixed to the detector of existing features.

    Only features of the configured extractors count. If they were made with several detectors, the one with the most
    clips is chosen.

    Raises:
        UserError: the settings of an extractor are invalid.
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
    """Return, by stage, the precision that existing features of the configured extractor were made with.

    Only stages with ``dtype: auto`` and existing features are included. If features exist in several precisions, the
    one with the most clips is chosen.

    Raises:
        UserError: the settings of an extractor are invalid, or its weights are not available.
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
    """Return the precision of a store's features, by undecided stage."""
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
    """Return the stages whose settings leave the precision open."""
    undecided: list[str] = [m for m in modalities if m in config.extractors and _is_open(m, config)]
    if config.transcriber and "text" in modalities:
        given = config.transcriber.settings.get("dtype", WhisperSettings().dtype)
        undecided += ["transcript"] if given == "auto" else []
    return undecided


def _is_open(modality: Modality, config: WorkspaceConfig) -> bool:
    kind, settings = check_settings(modality, config.extractors[modality])
    return kind.USES_GPU and wants_dtype(settings)
