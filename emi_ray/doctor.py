"""What would make a run fail, found out before it, each with its remedy."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from packaging.requirements import Requirement
from pydantic import BaseModel

from emi_ray.config import ExtractorSettings, FaceSettings, MediaSettings, WorkspaceConfig
from emi_ray.corpus.files import exist
from emi_ray.errors import UserError
from emi_ray.extractors import Extractor, check_settings
from emi_ray.feature_store import stores_of
from emi_ray.media.detection import build_finder
from emi_ray.runtime import machine, on_every_node, require_shared
from emi_ray.schema import MEDIA_COLUMNS, Modality, Need
from emi_ray.workspace import CONFIG, Workspace

NUM_PROBED = 100
"""Clips whose media are looked for; the first ones."""

MEDIA_FOR: Mapping[Need, tuple[str, ...]] = {
    "frames": ("video",),
    "faces": ("video", "faces_dir"),
    "waveform": ("audio", "video"),
    "transcript": ("transcript",),
    "openface_csv": ("openface_csv",),
    "video": ("video",),
}
"""Columns of ``clips.parquet``, any of which satisfies a need."""

CLIP_S = 10.0
SPEECH_STEPS_PER_S = 50.0
VIDEO_STEPS_PER_S = 30.0
UNKNOWN_DIM = 1024
"""What the estimate of space takes for granted of a clip that nobody has opened yet."""

PACKAGE = "emi_ray"
SAME_EVERYWHERE = ("emi_ray", "ray", "torch", "numpy", "pyarrow", "transformers")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. A ``warning`` costs something; a ``problem`` makes the run fail."""

    name: str
    status: Literal["ok", "warning", "problem"]
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Chosen:
    """A configured extractor with checked settings."""

    kind: type[Extractor]
    settings: BaseModel

    @property
    def needs(self) -> frozenset[Need]:
        return self.kind.needs(self.settings)


@dataclass(frozen=True)
class NodeReport:
    """What one node says of itself: versions by package, and what its extractors lack."""

    address: str
    versions: Mapping[str, str]
    problems: tuple[str, ...] = ()


def examine(workspace: Workspace, overrides: Sequence[str] = (), cluster: bool = False) -> Iterator[Check]:
    """All checks of a workspace, one after the other.

    Args:
        cluster: also ask every node of the current Ray session.
    """
    yield check_versions(installed_versions(), metadata.requires(PACKAGE) or [])
    yield (valid := check_config(workspace, overrides))
    if valid.status == "problem":
        return
    config = workspace.config(overrides)
    chosen, wrong = choose_extractors(config.extractors)
    yield from wrong
    yield from _examine_corpus(workspace, config, chosen)
    for modality, extractor in chosen.items():
        yield check_extractor(modality, extractor)
    if any("faces" in extractor.needs for extractor in chosen.values()):
        yield check_face_detector(config.media.faces)
    wants_gpu = any(extractor.kind.USES_GPU for extractor in chosen.values())
    yield check_gpu(chosen, _count_gpus(cluster) if wants_gpu else 0)
    if cluster:
        yield check_shared(workspace)
        local = report_node(config.extractors)
        answers = on_every_node(report_node, config.extractors)
        yield from check_nodes([NodeReport(address, *answer) for address, answer in answers], local[0])


def _examine_corpus(
    workspace: Workspace, config: WorkspaceConfig, chosen: Mapping[Modality, Chosen]
) -> Iterator[Check]:
    yield (valid := check_corpus(workspace))
    if valid.status == "problem":
        return
    clips = workspace.clips()
    yield check_media(clips)
    for modality, extractor in chosen.items():
        yield check_inputs(modality, extractor, clips, held=_holds_features(workspace, modality))
    needed = sum(estimate_bytes(clips.num_rows, extractor, config.media) for extractor in chosen.values())
    yield check_disk(_free_bytes(workspace), needed)


def check_config(workspace: Workspace, overrides: Sequence[str] = ()) -> Check:
    """``emi_ray.yaml`` is there and valid."""
    try:
        workspace.config(overrides)
    except UserError as error:
        return Check("settings", "problem", str(error))
    return Check("settings", "ok", f"{workspace.path(CONFIG)} is valid")


def check_corpus(workspace: Workspace) -> Check:
    """``clips.parquet`` is there and has clips."""
    try:
        num_clips = workspace.clips(["clip_id"]).num_rows
    except UserError as error:
        return Check("corpus", "problem", str(error))
    except (OSError, pa.ArrowInvalid) as error:
        return Check("corpus", "problem", f"clips.parquet cannot be read: {error}", "Run emi-ray init again.")
    if not num_clips:
        return Check("corpus", "problem", "clips.parquet has no clip.", "Run emi-ray init again.")
    return Check("corpus", "ok", f"{num_clips:,} clips")


def check_media(clips: pa.Table) -> Check:
    """The media of the first clips are where the table says."""
    first = clips.slice(0, NUM_PROBED)
    columns = [name for name in MEDIA_COLUMNS if name != "transcript"]
    found = [exist(first[name]) for name in columns]
    num_named = sum(len(there) - there.null_count for there in found)
    num_absent = sum(pc.sum(pc.invert(there)).as_py() or 0 for there in found)
    if not num_absent:
        return Check("media", "ok", f"all {num_named} files of the first {first.num_rows} clips are there")
    examples = (
        path
        for name, there in zip(columns, found, strict=True)
        for path in first[name].filter(pc.invert(there)).to_pylist()
    )
    return Check(
        "media",
        "problem" if num_absent == num_named else "warning",
        f"{num_absent} of {num_named} files of the first {first.num_rows} clips are not there: {next(examples)}",
        "Restore or mount them, or run emi-ray init with where they are now.",
    )


def choose_extractors(
    wanted: Mapping[Modality, ExtractorSettings],
) -> tuple[dict[Modality, Chosen], list[Check]]:
    """The configured extractors, and what is wrong with the names and settings of others."""
    chosen: dict[Modality, Chosen] = {}
    wrong = []
    for modality, settings in wanted.items():
        try:
            chosen[modality] = Chosen(*check_settings(modality, settings))
        except UserError as error:
            wrong.append(Check(modality, "problem", str(error)))
    return chosen, wrong


def check_extractor(modality: Modality, chosen: Chosen) -> Check:
    """The extractor could run here: weights can be had, a binary is there."""
    problems = chosen.kind.check(chosen.settings)
    if problems:
        return Check(modality, "problem", f"{chosen.kind.NAME}: {' '.join(problems)}")
    return Check(modality, "ok", f"{chosen.kind.NAME} can run")


def check_inputs(modality: Modality, chosen: Chosen, clips: pa.Table, held: bool = False) -> Check:
    """Clips have what the extractor needs; ``held``: the workspace has features of the modality already."""
    name = f"{modality} input"
    for need in sorted(chosen.needs):
        columns = MEDIA_FOR[need]
        num_with = sum(
            any(row)
            for row in zip(*(clips[column].is_valid().to_pylist() for column in columns), strict=True)
        )
        if num_with == clips.num_rows:
            continue
        source = " or ".join(columns)
        if held and not num_with:
            return Check(name, "ok", f"no clip has {source}, but the workspace holds {modality} features")
        return Check(
            name,
            "warning",
            f"{num_with:,} of {clips.num_rows:,} clips have {source}: the others will be missing {modality}",
            "Nothing to do if the corpus has no more; else name the files and run emi-ray init again.",
        )
    return Check(name, "ok", f"all clips have {', '.join(sorted(chosen.needs))}")


def check_face_detector(settings: FaceSettings) -> Check:
    """The face detector can be built."""
    try:
        build_finder(settings)
    except UserError as error:
        return Check("faces", "problem", str(error))
    return Check("faces", "ok", f"detector {settings.detector} works")


def check_gpu(chosen: Mapping[Modality, Chosen], num_gpus: int) -> Check:
    """There is a GPU where extractors want one."""
    wanting = [modality for modality, extractor in chosen.items() if extractor.kind.USES_GPU]
    forced = [m for m in wanting if str(getattr(chosen[m].settings, "device", "")).startswith("cuda")]
    if num_gpus or not wanting:
        return Check("gpu", "ok", f"{num_gpus} GPUs" if wanting else "no extractor wants one")
    if forced:
        settings = ", ".join(f"extractors.{modality}.settings.device" for modality in forced)
        return Check(
            "gpu", "problem", f"{settings} asks for CUDA, and no GPU is visible.", "Set device: auto."
        )
    message = f"{', '.join(wanting)} would run on the CPU, tens of times slower"
    return Check("gpu", "warning", message, "Use a machine with a GPU, or --address of a cluster.")


def estimate_bytes(num_clips: int, chosen: Chosen, media: MediaSettings) -> int:
    """Space for features: clips × steps × size × 2 bytes, for clips of ``CLIP_S``, before compression."""
    if chosen.needs & {"frames", "faces"}:
        steps = min(CLIP_S * media.frame_rate_hz, media.max_frames)
    elif "waveform" in chosen.needs:
        steps = CLIP_S * SPEECH_STEPS_PER_S
    elif "transcript" in chosen.needs:
        steps = 1
    else:
        steps = CLIP_S * VIDEO_STEPS_PER_S
    return int(num_clips * steps * (chosen.kind.DIM or UNKNOWN_DIM) * 2)


def check_disk(free_bytes: int | None, needed_bytes: int) -> Check:
    """There is space for the features; ``free_bytes`` None: it cannot be told."""
    needed = f"about {_gigabytes(needed_bytes)} for features of {CLIP_S:g} s clips"
    if free_bytes is None:
        return Check("disk", "ok", f"{needed}; free space behind a URI cannot be told")
    message = f"{needed}, {_gigabytes(free_bytes)} free"
    if free_bytes < needed_bytes:
        return Check("disk", "problem", message, "Free space, or put the workspace on another disk.")
    if free_bytes < 2 * needed_bytes:
        return Check("disk", "warning", message, "Longer clips need more: watch the disk.")
    return Check("disk", "ok", message)


def installed_versions() -> dict[str, str]:
    """Versions of Python and of all installed packages, by name in small letters."""
    found = {str(d.metadata["Name"]).lower(): d.version for d in metadata.distributions()}
    return {"python": ".".join(map(str, sys.version_info[:3])), **found}


def check_versions(installed: Mapping[str, str], required: Sequence[str]) -> Check:
    """Every package that emi_ray requires is installed in a version that it allows."""
    wrong = []
    for requirement in map(Requirement, required):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed.get(requirement.name.lower())
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version or 'is not there'} (needs {requirement.specifier})")
    if wrong:
        remedy = "Install again: pip install -c constraints.txt emi_ray."
        return Check("versions", "problem", f"{', '.join(wrong)}.", remedy)
    return Check("versions", "ok", f"all {len(required)} requirements are met")


def check_shared(workspace: Workspace) -> Check:
    """Every node of the Ray session sees the workspace."""
    try:
        require_shared(workspace)
    except UserError as error:
        return Check("shared workspace", "problem", str(error))
    return Check("shared workspace", "ok", "every node sees it")


def report_node(extractors: Mapping[Modality, ExtractorSettings]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Versions on this node, and why configured extractors could not run on it. Runs on every node."""
    installed = installed_versions()
    versions = {name: installed.get(name, "none") for name in ("python", *SAME_EVERYWHERE)}
    chosen, _ = choose_extractors(extractors)
    problems = [
        problem for extractor in chosen.values() for problem in extractor.kind.check(extractor.settings)
    ]
    return versions, tuple(problems)


def check_nodes(nodes: Sequence[NodeReport], local: Mapping[str, str]) -> Iterator[Check]:
    """All nodes have the versions that this process has, and their extractors could run."""
    for node in nodes:
        differing = [
            f"{name} {node.versions[name]} (here {version})"
            for name, version in local.items()
            if node.versions[name] != version
        ]
        if differing:
            remedy = "Install the same constraints.txt on every node."
            yield Check(f"node {node.address}", "problem", f"{', '.join(differing)}.", remedy)
        if node.problems:
            yield Check(f"node {node.address}", "problem", " ".join(node.problems))
        if not (differing or node.problems):
            yield Check(f"node {node.address}", "ok", "same versions, extractors can run")


def _holds_features(workspace: Workspace, modality: Modality) -> bool:
    return any(store.parts() for store in stores_of(workspace, modality))


def _free_bytes(workspace: Workspace) -> int | None:
    return shutil.disk_usage(workspace.path()).free if workspace.is_local else None


def _count_gpus(cluster: bool) -> int:
    if cluster:
        return machine().gpus
    import torch

    return torch.cuda.device_count()


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
