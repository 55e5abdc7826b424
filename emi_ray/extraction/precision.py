"""Ask the nodes once in which precision they compute, and make the answer part of the extractors' fingerprints.

The driver cannot know this itself, because the head of a cluster often has no GPU.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError, UserError
from emi_ray.extraction.pinned_settings import undecided_stages
from emi_ray.extraction.pools import wants_gpu
from emi_ray.extraction.stage import take_up
from emi_ray.pretrained_weights.loading import best_dtype
from emi_ray.runtime import machine
from emi_ray.runtime.nodes import answers_of
from emi_ray.schema import Modality

PROBE_GPU = 0.001
"""Fraction of a GPU that the task reserves which asks for the precision."""

ASK_FOR_S = 300.0
"""Time limit for the first answer. A node whose GPUs are in use answers only when they become free."""

ASK_OTHERS_FOR_S = 60.0
"""Time limit for the other answers after the first."""

_LOG = logging.getLogger(__name__)


def settle_precision(
    config: WorkspaceConfig,
    modalities: Collection[Modality],
    probe: Callable[[], str] = best_dtype,
    note: Callable[[str], None] = _LOG.warning,
) -> dict[str, str]:
    """Return, by stage, the precision that ``dtype: auto`` means on the nodes that will run it. Needs a Ray
    session.

    Args:
        probe: returns the precision for the process that it runs in.
        note: is called with a message about each node that did not answer.

    Raises:
        UserError: the answers of the nodes differ, or the settings of an extractor are invalid.
    """
    on_gpu = _uses_gpu(undecided_stages(config, modalities), config)
    first = {uses_gpu: stage for stage, uses_gpu in reversed(on_gpu.items())}
    answers = {uses_gpu: _agreed(uses_gpu, probe, stage, note) for uses_gpu, stage in first.items()}
    return {stage: answers[uses_gpu] for stage, uses_gpu in on_gpu.items()}


def note_other_precisions(
    config: WorkspaceConfig,
    settled: Mapping[str, str],
    nodes: Collection[str],
    note: Callable[[str], None],
    probe: Callable[[], str] = best_dtype,
) -> None:
    """Report the nodes that have joined a run and would choose another precision than the one it uses.

    They are used with the precision of the run in any case, so that all features have the same; but a GPU without
    bfloat16 computes it slowly.

    Args:
        settled: precision by stage.
        nodes: ids of the nodes.
        note: is called with a message about each stage for which such nodes exist.
        probe: as for :func:`settle_precision`.
    """
    on_gpu = _uses_gpu(settled, config)
    for uses_gpu in set(on_gpu.values()):
        try:
            said = ask_nodes(uses_gpu, probe, note, nodes, ASK_OTHERS_FOR_S)
        except EmiRayError:  # busy, gone again, or without a GPU
            continue
        for stage, dtype in settled.items():
            others = [f"{address} ({answer})" for address, answer in said if answer != dtype]
            if others and on_gpu[stage] == uses_gpu:
                note(
                    f"{', '.join(others)} joined and would choose another precision: it computes {stage} in {dtype} "
                    f"like the others, which may be slow there"
                )


def _uses_gpu(stages: Iterable[str], config: WorkspaceConfig) -> dict[str, bool]:
    """Return, by stage, whether it will run on a GPU."""
    return {stage: machine().gpus > 0 and wants_gpu(stage, config.extraction) for stage in stages}


def _agreed(uses_gpu: bool, probe: Callable[[], str], stage: str, note: Callable[[str], None]) -> str:
    said = ask_nodes(uses_gpu, probe, note)
    if len({dtype for _, dtype in said}) > 1:
        told = ", ".join(f"node {address} in {dtype}" for address, dtype in said)
        place = "transcriber" if stage == "transcript" else f"extractors.{stage}"
        raise UserError(
            f"Nodes would compute {stage} in different precisions: {told}. All features of an extractor must have "
            f"the same precision: set {place}.settings.dtype, for instance to float32, or remove nodes."
        )
    return said[0][1]


def ask_nodes(
    uses_gpu: bool,
    probe: Callable[[], str],
    note: Callable[[str], None] = _LOG.warning,
    among: Collection[str] | None = None,
    patience_s: float = ASK_FOR_S,
) -> list[tuple[str, str]]:
    """Run ``probe`` on each living node with GPUs (or CPUs). Returns (address, answer) of each node that answers.

    Args:
        among: ids of the nodes to ask; None: all.
        patience_s: time limit for the first answer.

    Raises:
        UserError: no node answers in time, or there is none.
        EmiRayError: all nodes died before they answered.
    """
    wanted = "GPU" if uses_gpu else "CPU"
    nodes = [
        node
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get(wanted) and (among is None or node["NodeID"] in among)
    ]
    if not nodes:
        raise UserError(f"The cluster has no node with {wanted}s.")
    # A process that has initialised its GPUs keeps seeing exactly those, so it must not be reused (max_calls=1).
    task = ray.remote(num_cpus=0, num_gpus=PROBE_GPU if uses_gpu else 0, max_calls=1)(_asked)
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    answers = [task.options(scheduling_strategy=each).remote(probe, uses_gpu) for each in strategies]
    busy = UserError(
        f"No node has a free {wanted}: none of {len(nodes)} reported its precision within {patience_s:g} s. Wait "
        f"until one is free, or set dtype in the extractors' settings."
    )
    if not ray.wait(answers, timeout=patience_s)[0]:
        raise busy
    _, late = ray.wait(answers, num_returns=len(answers), timeout=ASK_OTHERS_FOR_S)
    for answer in late:
        ray.cancel(answer)  # it would reserve a part of a GPU that an actor wants as a whole
        silent = nodes[answers.index(answer)]["NodeManagerAddress"]
        note(
            f"node {silent} has no free {wanted} and did not report its precision: that of the others is used"
        )
    answered = [pair for pair in zip(nodes, answers, strict=True) if pair[1] not in late]
    if not (said := answers_of([node for node, _ in answered], [answer for _, answer in answered])):
        if late:
            raise busy
        raise EmiRayError(
            f"All nodes with {wanted}s died when they were asked for their precision. Try again."
        )
    return said


def _asked(probe: Callable[[], str], uses_gpu: bool) -> str:
    take_up(1, uses_gpu)
    return probe()
