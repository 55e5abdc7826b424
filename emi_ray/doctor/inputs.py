"""Checks of the inputs of a run: settings, corpus, media, extractors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from emi_ray.config import ExtractorSettings, FaceSettings, TrackerName
from emi_ray.corpus.files import exist
from emi_ray.doctor.check import Check
from emi_ray.errors import UserError
from emi_ray.extractors import Extractor, Whisper, check_settings, check_transcriber_settings
from emi_ray.media.detection import build_finder
from emi_ray.media.yunet import settle_faces
from emi_ray.pretrained_weights.checkpoint import PACKAGES, Checkpoint
from emi_ray.schema import MEDIA_COLUMNS, Modality, Need
from emi_ray.tracking import require_package
from emi_ray.wording import plural
from emi_ray.workspace import CONFIG, Workspace

NUM_PROBED = 100
"""Number of clips, from the start, whose media are checked for existence."""

MEDIA_FOR: Mapping[Need, tuple[str, ...]] = {
    "frames": ("video",),
    "faces": ("video", "faces_dir"),
    "waveform": ("audio", "video"),
    "transcript": ("transcript",),
    "openface_csv": ("openface_csv",),
    "video": ("video",),
}
"""Columns of ``clips.parquet`` for each need; one of them is enough."""


@dataclass(frozen=True)
class Chosen:
    """A configured extractor with validated settings."""

    kind: type[Extractor]
    settings: BaseModel

    @property
    def needs(self) -> frozenset[Need]:
        return self.kind.needs(self.settings)


def check_config(workspace: Workspace, overrides: Sequence[str] = ()) -> Check:
    """Check that ``emi_ray.yaml`` exists and is valid."""
    try:
        workspace.config(overrides)
    except UserError as error:
        return Check("settings", "problem", str(error))
    return Check("settings", "ok", f"{workspace.path(CONFIG)} is valid")


def check_corpus(workspace: Workspace) -> Check:
    """Check that ``clips.parquet`` exists and has clips."""
    try:
        num_clips = workspace.clips(["clip_id"]).num_rows
    except UserError as error:
        return Check("corpus", "problem", str(error))
    except OSError as error:
        return Check("corpus", "problem", f"clips.parquet cannot be read: {error}", "Run emi-ray init again.")
    if not num_clips:
        return Check("corpus", "problem", "clips.parquet has no clips.", "Run emi-ray init again.")
    return Check("corpus", "ok", plural(num_clips, "clip"))


def check_media(clips: pa.Table) -> Check:
    """Check that the media files of the first clips exist."""
    first = clips.slice(0, NUM_PROBED)
    columns = [name for name in MEDIA_COLUMNS if name != "transcript"]
    found = [exist(first[name]) for name in columns]
    # exist() gives null where a clip names no file.
    num_named = sum(len(there) - there.null_count for there in found)
    num_absent = sum(pc.sum(pc.invert(there)).as_py() or 0 for there in found)
    if not num_named:
        return Check("media", "ok", f"no files are named by the first {plural(first.num_rows, 'clip')}")
    files = f"{plural(num_named, 'file')} of the first {plural(first.num_rows, 'clip')}"
    if not num_absent:
        return Check("media", "ok", f"all files exist: {files}")
    examples = (
        path
        for name, there in zip(columns, found, strict=True)
        for path in first[name].filter(pc.invert(there)).to_pylist()
    )
    return Check(
        "media",
        # If not one file exists, the disk is probably not mounted; single ones may be lost.
        "problem" if num_absent == num_named else "warning",
        f"{num_absent} of {files} do not exist: {next(examples)}",
        "Restore or mount them, or run emi-ray init with their present location.",
    )


def choose_extractors(
    wanted: Mapping[Modality, ExtractorSettings],
) -> tuple[dict[Modality, Chosen], list[Check]]:
    """Return the configured extractors, and problems with the names and settings of others."""
    chosen: dict[Modality, Chosen] = {}
    wrong = []
    for modality, settings in wanted.items():
        try:
            chosen[modality] = Chosen(*check_settings(modality, settings))
        except UserError as error:
            wrong.append(Check(modality, "problem", str(error)))
    return chosen, wrong


def check_extractor(modality: Modality, chosen: Chosen) -> Check:
    """Check that the extractor can run here: its weights or its binary are available."""
    return _check_tool(modality, chosen.kind, chosen.settings)


def check_transcriber(wanted: ExtractorSettings) -> Check:
    """Check that the speech recogniser exists, that its settings are valid, and that its weights are available."""
    try:
        settings = check_transcriber_settings(wanted)
    except UserError as error:
        return Check("transcriber", "problem", str(error))
    return _check_tool("transcriber", Whisper, settings)


def _check_tool(name: str, kind: type[Extractor] | type[Whisper], settings: Any) -> Check:
    if problems := kind.check(settings):
        return Check(name, "problem", f"{kind.NAME}: {' '.join(problems)}")
    return Check(name, "ok", f"{kind.NAME} can run{_source(settings)}; licence: {kind.LICENCE}")


def _source(settings: BaseModel) -> str:
    """Return the origin of a pretrained extractor's weights, for the message; empty for other extractors."""
    weights = getattr(settings, "weights", None)
    if weights is None:
        return ""
    place = Checkpoint(weights, getattr(settings, "revision", None)).reachable().place
    package = PACKAGES[weights][0] if weights in PACKAGES else ""
    sources = {"folder": f"the folder {weights}", "cache": "the Hugging Face cache", "hub": "the hub"}
    return f" with weights from {sources.get(place, f'the package {package}')}"


def count_ready(chosen: Chosen, clips: pa.Table, hears: bool = False) -> int:
    """Count the clips with all inputs that the extractor needs.

    Args:
        hears: whether the words of clips without a transcript are recognised.
    """
    ready = pa.chunked_array([pa.repeat(True, clips.num_rows)])
    for need in chosen.needs:
        lacks_all = pa.chunked_array([pa.repeat(True, clips.num_rows)])
        for column in _columns_for(need, hears):
            lacks_all = pc.and_(lacks_all, pc.is_null(clips[column]))
        ready = pc.and_(ready, pc.invert(lacks_all))
    return int(pc.sum(ready).as_py() or 0)


def _columns_for(need: Need, hears: bool) -> tuple[str, ...]:
    """Return the columns of which one is enough for a need."""
    return MEDIA_FOR[need] + (MEDIA_FOR["waveform"] if hears and need == "transcript" else ())


def check_inputs(
    modality: Modality, chosen: Chosen, clips: pa.Table, held: bool = False, hears: bool = False
) -> Check:
    """Check that clips have the inputs of the extractor.

    Args:
        held: whether the workspace has features of the modality already.
        hears: whether the words of clips without a transcript are recognised.
    """
    name, num_ready = f"{modality} input", count_ready(chosen, clips, hears)
    sources = " and ".join(" or ".join(_columns_for(need, hears)) for need in sorted(chosen.needs))
    if num_ready == clips.num_rows:
        return Check(name, "ok", f"all clips have {sources}")
    if held and not num_ready:
        return Check(name, "ok", f"no clip has {sources}, but the workspace has {modality} features")
    return Check(
        name,
        "warning",
        f"{num_ready:,} of {plural(clips.num_rows, 'clip')} have {sources}: the others will have no {modality}",
        "If the corpus has more files, add them to the table and run emi-ray init again.",
    )


def check_tracker(name: TrackerName) -> Check:
    """Check that the package of an experiment tracker is installed."""
    try:
        require_package(name)
    except UserError as error:
        return Check("tracking", "problem", str(error))
    return Check("tracking", "ok", f"the package of {name} is installed")


def check_face_detector(settings: FaceSettings) -> Check:
    """Check that the face detector can be built."""
    try:
        detector = settle_faces(settings).detector
        # Building it loads the weights, which is the part that can fail.
        build_finder(settings)
    except UserError as error:
        return Check("faces", "problem", str(error))
    return Check("faces", "ok", f"detector {detector} works")
