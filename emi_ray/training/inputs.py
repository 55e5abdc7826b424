"""What a run reads, as hashes: the clips with their labels, each modality's features by content, the transcripts."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.feature_store import FeatureStore
from emi_ray.recipe import Recipe
from emi_ray.schema import MEDIA_COLUMNS, Stream, labels_of
from emi_ray.transcript_store import TranscriptStore, transcript_stores
from emi_ray.workspace import Workspace

CLIPS = "clips"


def read_inputs(
    clips: pa.Table,
    recipe: Recipe,
    stores: Mapping[Stream, FeatureStore],
    transcripts: TranscriptStore | None,
) -> dict[str, str]:
    """The hash of each thing that a run reads: :data:`CLIPS`, and one an encoder.

    Args:
        clips: the corpus.
        stores: of the encoders that read features.
        transcripts: what a fine-tuned text backbone reads where the corpus gives no text.
    """
    inputs = {CLIPS: hash_of_clips(clips)}
    for stream, store in stores.items():
        inputs[stream] = _hash(store.fingerprint, *digests_of(store, clips["clip_id"].combine_chunks()))
    if recipe.transcript_stream is not None:
        recogniser = transcripts.fingerprint if transcripts is not None else ""
        texts = sorted(read_transcripts(clips, transcripts).items())
        inputs[recipe.transcript_stream] = _hash(
            recogniser, *(f"{clip_id} {text}" for clip_id, text in texts)
        )
    return inputs


def hash_of_clips(clips: pa.Table) -> str:
    """Of the clips in their order: ids, splits, groups, labels with their ranges; not of where their media lie."""
    names = [name for name in clips.column_names if name not in MEDIA_COLUMNS]
    columns = (repr((name, clips[name].to_pylist())) for name in names)
    return _hash(*columns, *(repr(label) for label in labels_of(clips.schema)))


def digests_of(store: FeatureStore, clip_ids: pa.Array) -> np.ndarray:
    """The hash of each clip's features, (N,) str; empty where the store has none."""
    record = store.held.record()
    place = pc.index_in(clip_ids, value_set=record["clip_id"].combine_chunks())
    found = pc.fill_null(record["digest"].combine_chunks().take(place), "")
    return np.array(found.to_pylist(), dtype=str)


def read_transcripts(clips: pa.Table, recognised_in: TranscriptStore | None) -> dict[str, str]:
    """By clip id, what the corpus says; where it says nothing, what was recognised from the sound."""
    recognised = recognised_in.read() if recognised_in is not None else {}
    given = zip(clips["clip_id"].to_pylist(), clips["transcript"].to_pylist(), strict=True)
    texts = {clip_id: text or recognised.get(clip_id) or "" for clip_id, text in given}
    return {clip_id: text for clip_id, text in texts.items() if text.strip()}


def find_transcripts(
    workspace: Workspace, config: WorkspaceConfig, fingerprint: str | None = None
) -> TranscriptStore | None:
    """Where recognised transcripts are read from: the store of ``fingerprint``; else that of the configured
    recogniser; where none is configured, the only one that there is; None where there is none.

    Raises:
        UserError: several recognisers have been used, and it is not told which is meant.
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
        f"{workspace.root} holds transcripts of several recognisers: {listing}. Say in emi_ray.yaml which is meant: "
        "transcriber.name and, of two with one name, transcriber.settings."
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


def require_labels(workspace: Workspace) -> None:
    """Make sure that there is something to learn: asked before Ray starts, for no retry can help.

    Raises:
        UserError: the corpus has no labels, or none for a clip of train.
    """
    clips = workspace.clips()
    labels = labels_of(clips.schema)
    place = f"The corpus of {workspace.root}"
    remedy = "Without labels clips can be extracted and predicted, not trained on or scored."
    if not labels:
        raise UserError(
            f"{place} has no labels. Add columns of numbers to its table and run emi-ray init again. {remedy}"
        )
    train = clips.filter(pc.equal(clips["split"], "train"))
    if not any(train.num_rows - train[label.name].null_count for label in labels):
        raise UserError(
            f"{place} has no label for any clip of train. Fill in {labels[0].name} in its table for clips with "
            f"split = train, and run emi-ray init again. {remedy}"
        )
