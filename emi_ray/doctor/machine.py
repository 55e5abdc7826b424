"""Checks of the machine: versions, GPU, disk, the nodes of a cluster."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from emi_ray.config import ExtractorSettings, MediaSettings, WorkspaceConfig
from emi_ray.doctor.check import Check
from emi_ray.doctor.inputs import Chosen, choose_extractors
from emi_ray.errors import UserError
from emi_ray.extraction.precision import settle_precision
from emi_ray.runtime import machine, require_shared
from emi_ray.schema import Modality
from emi_ray.workspace import Workspace

CLIP_S = 10.0
SPEECH_STEPS_PER_S = 50.0
VIDEO_STEPS_PER_S = 30.0
UNKNOWN_DIM = 1024
"""Assumptions of the disk-space estimate about clips that have not been opened yet."""

# Objects of these packages are pickled between the nodes, or decide the numbers.
SAME_EVERYWHERE = ("emi-ray", "ray", "torch", "numpy", "pyarrow", "transformers")


@dataclass(frozen=True)
class NodeReport:
    """The report of one node: versions by package, and problems of its extractors."""

    address: str
    versions: Mapping[str, str]
    problems: tuple[str, ...] = ()


def check_gpu(chosen: Mapping[Modality, Chosen], num_gpus: int, hears: bool = False) -> Check:
    """Check that there is a GPU if extractors need one.

    Args:
        hears: whether speech is recognised.
    """
    models: list[Modality] = [m for m, extractor in chosen.items() if extractor.kind.USES_GPU]
    wanting = [*models, *(["transcriber"] if hears else [])]
    forced = [m for m in models if str(getattr(chosen[m].settings, "device", "")).startswith("cuda")]
    if num_gpus or not wanting:
        return Check("gpu", "ok", f"{num_gpus} GPUs" if wanting else "no extractor needs one")
    if forced:
        settings = ", ".join(f"extractors.{modality}.settings.device" for modality in forced)
        return Check(
            "gpu", "problem", f"{settings} asks for CUDA, and no GPU is visible.", "Set device: auto."
        )
    message = f"{', '.join(wanting)} would run on the CPU, tens of times slower"
    return Check("gpu", "warning", message, "Use a machine with a GPU, or --address of a cluster.")


def estimate_bytes(num_clips: int, chosen: Chosen, media: MediaSettings) -> int:
    """Estimate the space for features before compression: clips × steps × size × 2 bytes, for clips of ``CLIP_S``."""
    if chosen.needs & {"frames", "faces"}:
        # Decoding stops at max_frames.
        steps = min(CLIP_S * media.frame_rate_hz, media.max_frames)
    elif "waveform" in chosen.needs:
        steps = CLIP_S * SPEECH_STEPS_PER_S
    elif "transcript" in chosen.needs:
        steps = 1
    else:
        steps = CLIP_S * VIDEO_STEPS_PER_S
    return int(num_clips * steps * (chosen.kind.DIM or UNKNOWN_DIM) * 2)


def check_disk(free_bytes: int | None, needed_bytes: int) -> Check:
    """Check that there is space for the features. ``free_bytes`` is None if it is unknown."""
    needed = f"about {_gigabytes(needed_bytes)} for features of {CLIP_S:g} s clips"
    if free_bytes is None:
        return Check("disk", "ok", f"{needed}; free space behind a URI is unknown")
    message = f"{needed}, {_gigabytes(free_bytes)} free"
    if free_bytes < needed_bytes:
        return Check("disk", "problem", message, "Free space, or put the workspace on another disk.")
    if free_bytes < 2 * needed_bytes:
        return Check("disk", "warning", message, "Longer clips need more: watch the disk.")
    return Check("disk", "ok", message)


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of all installed packages, by canonical name (``emi-ray``)."""
    found = {str(canonicalize_name(d.metadata["Name"])): d.version for d in metadata.distributions()}
    return {"python": ".".join(map(str, sys.version_info[:3])), **found}


def check_versions(installed: Mapping[str, str], required: Sequence[str]) -> Check:
    """Check that all required packages are installed in a permitted version."""
    wrong = []
    for requirement in map(Requirement, required):
        # Skips requirements of extras and of other systems.
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed.get(canonicalize_name(requirement.name))
        # prereleases=True, because a nightly build of torch meets its requirement too.
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(
                f"{requirement.name} {version or 'is not installed'} (needs {requirement.specifier})"
            )
    if wrong:
        remedy = "Install again: pip install -c constraints.txt emi_ray."
        return Check("versions", "problem", f"{', '.join(wrong)}.", remedy)
    return Check("versions", "ok", f"all {len(required)} requirements are met")


def check_shared(workspace: Workspace) -> Check:
    """Check that every node of the Ray session can read the workspace."""
    try:
        require_shared(workspace)
    except UserError as error:
        return Check("shared workspace", "problem", str(error))
    return Check("shared workspace", "ok", "every node can read it")


def check_precision(config: WorkspaceConfig) -> Check:
    """Check that all nodes which would run a model compute in the same precision."""
    try:
        settled = settle_precision(config, config.extractors)
    except UserError as error:
        return Check("precision", "problem", str(error))
    told = ", ".join(f"{stage} in {dtype}" for stage, dtype in settled.items())
    return Check("precision", "ok", told or "no extractor chooses its precision automatically")


def report_node(extractors: Mapping[Modality, ExtractorSettings]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the versions on this node, and problems of configured extractors on it. Runs on every node."""
    installed = installed_versions()
    versions = {name: installed.get(name, "none") for name in ("python", *SAME_EVERYWHERE)}
    chosen, _ = choose_extractors(extractors)
    problems = [
        problem for extractor in chosen.values() for problem in extractor.kind.check(extractor.settings)
    ]
    return versions, tuple(problems)


def check_nodes(nodes: Sequence[NodeReport], local: Mapping[str, str]) -> Iterator[Check]:
    """Check that all nodes have the versions of this process, and that their extractors can run."""
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


def free_bytes(workspace: Workspace) -> int | None:
    """Return the free space of the workspace's disk; None if it is unknown."""
    return shutil.disk_usage(workspace.path()).free if workspace.is_local else None


def count_gpus(cluster: bool) -> int:
    """Return the number of GPUs of the current Ray session, or of this machine."""
    if cluster:
        return machine().gpus
    import torch

    return torch.cuda.device_count()


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
