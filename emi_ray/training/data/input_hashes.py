"""Hashes of the inputs of a run: the clips with their labels, the content of features, and the transcripts."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.recipe.schema import Recipe
from emi_ray.schema import MEDIA_COLUMNS, EncoderName, labels_of
from emi_ray.store.feature_store import FeatureStore
from emi_ray.store.transcript_store import TranscriptStore, transcript_stores
from emi_ray.workspace import Workspace

CLIPS = "clips"


def read_inputs(
    clips: pa.Table,
    recipe: Recipe,
    stores: Mapping[EncoderName, FeatureStore],
    transcripts: TranscriptStore | None,
) -> dict[str, str]:
    """Compute the hash of each input of a run: :data:`CLIPS`, and one for each encoder.

    Args:
        clips: the corpus.
        recipe: the recipe of the run.
        stores: the stores of the encoders that read features.
        transcripts: recognised transcripts, which a fine-tuned text backbone reads if the corpus gives none.
    """
    inputs = {CLIPS: hash_of_clips(clips)}
    for stream, store in stores.items():
        digests = digests_of(store, clips["clip_id"].combine_chunks())
        inputs[stream] = hash_of_features(store.fingerprint, digests)
    if recipe.transcript_stream is not None:
        recogniser = transcripts.fingerprint if transcripts is not None else None
        inputs[recipe.transcript_stream] = hash_of_transcripts(
            read_transcripts(clips, transcripts), recogniser
        )
    return inputs


def hash_of_transcripts(texts: Mapping[str, str], recogniser: str | None) -> str:
    """Compute a hash of transcripts by clip id, and of the fingerprint of the recogniser, if there is one."""
    return _hash(recogniser or "", *(f"{clip_id} {text}" for clip_id, text in sorted(texts.items())))


def hash_of_features(fingerprint: str, digests: Iterable[str]) -> str:
    """Compute a hash of the features of all clips, in order.

    Args:
        fingerprint: fingerprint of the store.
        digests: hash of each clip's features; empty for clips without features.
    """
    return _hash(fingerprint, *digests)


def hash_of_clips(clips: pa.Table) -> str:
    """Compute a hash of the clips in order: ids, splits, groups and labels with ranges, but not the media paths."""
    names = [name for name in clips.column_names if name not in MEDIA_COLUMNS]
    columns = (repr((name, clips[name].to_pylist())) for name in names)
    return _hash(*columns, *(repr(label) for label in labels_of(clips.schema)))


def digests_of(store: FeatureStore, clip_ids: pa.Array) -> np.ndarray:
    """Return the hash of each clip's features, (N,) str; empty for clips without features."""
    record = store.held.record()
    place = pc.index_in(clip_ids, value_set=record["clip_id"].combine_chunks())
    found = pc.fill_null(record["digest"].combine_chunks().take(place), "")
    return np.array(found.to_pylist(), dtype=str)


def read_transcripts(clips: pa.Table, recognised_in: TranscriptStore | None) -> dict[str, str]:
    """Return transcripts by clip id: those of the corpus, else the recognised ones; clips without text are absent."""
    recognised = recognised_in.read() if recognised_in is not None else {}
    given = zip(clips["clip_id"].to_pylist(), clips["transcript"].to_pylist(), strict=True)
    texts = {clip_id: text or recognised.get(clip_id) or "" for clip_id, text in given}
    return {clip_id: text for clip_id, text in texts.items() if text.strip()}


def find_transcripts(
    workspace: Workspace, config: WorkspaceConfig, fingerprint: str | None = None
) -> TranscriptStore | None:
    """Find the store of recognised transcripts.

    It is the one of ``fingerprint`` if given, else that of the configured recogniser. If none is configured, it is
    the only store. The result is None if there is no such store.

    Raises:
        UserError: several stores fit.
    """
    held = transcript_stores(workspace)
    if fingerprint is not None:
        return next((store for store in held if store.fingerprint == fingerprint), None)
    fitting = held
    if config.transcriber is not None:
        fitting = [store for store in held if _is_made_by(store.describe(), config)]
    if len(fitting) <= 1:
        return fitting[0] if fitting else None
    listing = ", ".join(f"{store.fingerprint} {store.describe().get('settings', {})}" for store in fitting)
    raise UserError(
        f"{workspace.root} has transcripts of several recognisers: {listing}. Select one in emi_ray.yaml with "
        "transcriber.name and, if that is not unique, transcriber.settings."
    )


def _is_made_by(description: Mapping[str, Any], config: WorkspaceConfig) -> bool:
    assert config.transcriber is not None
    settings = description.get("settings", {})
    return (
        description.get("extractor") == config.transcriber.name
        and config.transcriber.settings.items() <= settings.items()
    )


def _hash(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()


def require_labels(workspace: Workspace) -> pa.Table:
    """Read the clips and check that they have labels to learn from, before Ray starts: no retry can help.

    Raises:
        UserError: the corpus has no labels, or no training clip has one.
    """
    clips = workspace.clips()
    labels = labels_of(clips.schema)
    place = f"The corpus of {workspace.root}"
    remedy = "Without labels, clips can be extracted and predicted, but not be used for training or scoring."
    if not labels:
        raise UserError(
            f"{place} has no labels. Add numeric columns to its table and run emi-ray init again. {remedy}"
        )
    train = clips.filter(pc.equal(clips["split"], "train"))
    if not any(train.num_rows - train[label.name].null_count for label in labels):
        raise UserError(
            f"{place} has no label for any training clip. Fill in {labels[0].name} in its table for clips with "
            f"split = train, and run emi-ray init again. {remedy}"
        )
    return clips
