"""Find problems before a run, each with its remedy.

check.py     the result of a check
inputs.py    settings, corpus, media, extractors
machine.py   versions, GPU, disk, the nodes of a cluster
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata

from emi_ray.config import WorkspaceConfig
from emi_ray.doctor.check import Check
from emi_ray.doctor.inputs import (
    Chosen,
    check_config,
    check_corpus,
    check_extractor,
    check_face_detector,
    check_inputs,
    check_media,
    check_tracker,
    check_transcriber,
    choose_extractors,
    count_ready,
)
from emi_ray.doctor.machine import (
    NodeReport,
    check_disk,
    check_gpu,
    check_nodes,
    check_precision,
    check_shared,
    check_versions,
    count_gpus,
    estimate_bytes,
    free_bytes,
    installed_versions,
    report_node,
)
from emi_ray.runtime import on_every_node
from emi_ray.schema import Modality
from emi_ray.store.feature_store import full_stores
from emi_ray.workspace import Workspace

PACKAGE = "emi_ray"


def examine(workspace: Workspace, overrides: Sequence[str] = (), cluster: bool = False) -> Iterator[Check]:
    """Yield the results of all checks of a workspace.

    Args:
        cluster: also check every node of the current Ray session.
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
    if config.transcriber:
        yield check_transcriber(config.transcriber)
    if any("faces" in extractor.needs for extractor in chosen.values()):
        yield check_face_detector(config.media.faces)
    for name in config.tracking:
        yield check_tracker(name)
    # Counting GPUs imports torch, which takes seconds.
    hears = config.transcriber is not None
    wants_gpu = hears or any(extractor.kind.USES_GPU for extractor in chosen.values())
    yield check_gpu(chosen, count_gpus(cluster) if wants_gpu else 0, hears)
    if cluster:
        yield check_shared(workspace)
        yield check_precision(config)
        local = report_node(config.extractors)
        answers = on_every_node(report_node, config.extractors)
        yield from check_nodes([NodeReport(address, *answer) for address, answer in answers], local[0])


def _examine_corpus(
    workspace: Workspace, config: WorkspaceConfig, chosen: Mapping[Modality, Chosen]
) -> Iterator[Check]:
    yield (valid := check_corpus(workspace))
    if valid.status == "problem":
        return
    clips, hears = workspace.clips(), config.transcriber is not None
    yield check_media(clips)
    for modality, extractor in chosen.items():
        yield check_inputs(modality, extractor, clips, bool(full_stores(workspace, modality)), hears)
    needed = sum(
        estimate_bytes(count_ready(extractor, clips, hears), extractor, config.media)
        for extractor in chosen.values()
    )
    yield check_disk(free_bytes(workspace), needed)


__all__ = ["Check", "examine"]
