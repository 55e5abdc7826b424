"""The extractors of a trained model: the configuration with which new clips get the features that it reads."""

from collections.abc import Sequence

from emi_ray.config import ExtractionSettings, ExtractorSettings, MediaSettings, WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.extractors import find_extractor
from emi_ray.schema import EncoderName, Modality
from emi_ray.training.checkpoint import LoadedModel


def extraction_rounds(loaded: LoadedModel) -> list[list[EncoderName]]:
    """Group the model's encoders into as few extractions as possible; each has at most one extractor per modality."""
    rounds: list[dict[Modality, str]] = []
    chosen: list[list[EncoderName]] = []
    description = loaded.description
    for stream in description.extractors:
        modality, fingerprint = description.recipe.modality_of(stream), description.fingerprint(stream)
        place = next(
            (i for i, r in enumerate(rounds) if r.get(modality, fingerprint) == fingerprint), len(rounds)
        )
        if place == len(rounds):
            rounds.append({})
            chosen.append([])
        if modality not in rounds[place]:
            rounds[place][modality] = fingerprint
            chosen[place].append(stream)
    return chosen


def config_of(
    loaded: LoadedModel, extraction: ExtractionSettings, streams: Sequence[EncoderName] | None = None
) -> WorkspaceConfig:
    """Return the configuration with which the model's extractors have the fingerprints that it was trained on.

    Args:
        streams: the encoders whose extractors are included, one per modality; by default all.

    Raises:
        UserError: it was trained on imported features, which cannot be extracted.
    """
    for modality, identity in loaded.description.extractors.items():
        # Checked for all encoders, also those that are not asked for, to fail before any extraction.
        if find_extractor(identity["extractor"]) is None:
            raise UserError(
                f"The model was trained on imported {modality} features ({identity['extractor']}), which cannot be "
                f"extracted from clips here. Import those of the new clips into the workspace, under the test "
                f"split, and leave --clips out."
            )
    identities = loaded.description.extractors
    modality_of = loaded.description.recipe.modality_of
    extractors: dict[Modality, ExtractorSettings] = {
        modality_of(stream): ExtractorSettings(
            name=identities[stream]["extractor"], settings=identities[stream]["settings"]
        )
        for stream in (identities if streams is None else streams)
    }
    transcriber = loaded.description.recogniser_of_features
    return WorkspaceConfig(
        media=_media_of(loaded),
        extractors=extractors,
        extraction=extraction,
        transcriber=transcriber
        and ExtractorSettings(name=transcriber["extractor"], settings=transcriber["settings"]),
    )


def recognition_config(loaded: LoadedModel, extraction: ExtractionSettings) -> WorkspaceConfig | None:
    """Return the configuration that recognises the speech which a fine-tuned text backbone reads.

    Speech is recognised on the way to text features, so an extraction of the built-in ones, the cheapest, does it.
    None if the model was not trained on recognised transcripts.
    """
    recogniser = loaded.description.transcriber
    if recogniser is None:
        return None
    transcriber = ExtractorSettings(name=recogniser["extractor"], settings=recogniser["settings"])
    return WorkspaceConfig(media=_media_of(loaded), extraction=extraction, transcriber=transcriber)


def _media_of(loaded: LoadedModel) -> MediaSettings:
    """Return the model's media settings, with the face detector that its features were made with."""
    media = loaded.description.media
    for identity in loaded.description.extractors.values():
        # The description has the detector that "auto" was resolved to.
        if faces := identity.get("media", {}).get("faces"):
            return media.model_copy(update={"faces": media.faces.as_made(faces)})
    return media
