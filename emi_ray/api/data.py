"""From a corpus to features: init, extract."""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from emi_ray.api.inputs import Overrides, overrides_of
from emi_ray.config import CorpusKind
from emi_ray.schema import Modality
from emi_ray.workspace import WorkspaceLike, workspace_of

if TYPE_CHECKING:  # the command line shows its first line before these are imported
    from emi_ray.corpus.manifest import Corpus
    from emi_ray.extraction.measure import Measurement
    from emi_ray.extraction.pools import Pool
    from emi_ray.extraction.summary import ExtractionSummary


def init(
    workspace: WorkspaceLike,
    source: str | os.PathLike[str],
    *,
    corpus: CorpusKind = "table",
    settings: Overrides = (),
) -> "Corpus":
    """Read a corpus into a workspace.

    Args:
        workspace: path or URI, or a Workspace; it is created if it does not exist.
        source: folder, table (CSV, Parquet) or URI of the corpus.
        corpus: kind of the source: ``table``, ``vidmimic2``, or ``demo`` for the folder of a rendered corpus.
        settings: settings to write into ``emi_ray.yaml``.

    Returns:
        The checked clips, and the ``findings`` of the checks. Those that are warnings are also issued as such.

    Raises:
        UserError: the corpus has errors, or a setting is invalid. Nothing is written then.

    Examples:
        >>> corpus = emi_ray.init("work", "clips.csv")
        >>> corpus.clips.num_rows, [label.name for label in corpus.labels]
        (48, ['Joy', 'Fear'])
    """
    from emi_ray.corpus.setup import init_workspace

    made = init_workspace(workspace_of(workspace), corpus, os.fspath(source), overrides_of(settings))
    for finding in made.warnings:
        warnings.warn(str(finding), stacklevel=2)
    return made


def extract(
    workspace: WorkspaceLike,
    modalities: Sequence[Modality] | None = None,
    *,
    settings: Overrides = (),
    retry_failed: bool = False,
    address: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> "ExtractionSummary":
    """Extract features from the clips of a workspace. Existing features are kept.

    Args:
        modalities: by default all that the workspace has extractors for.
        settings: settings to override for this call.
        retry_failed: process only quarantined clips, again.
        address: Ray cluster to use; by default this machine only.
        on_progress: called with the number of clips that are done and the total number.

    Returns:
        What was done, which clips were quarantined and why, and timings.

    Raises:
        UserError: a setting is invalid, weights are not available, or another process extracts into the workspace.
        EmiRayError: a stage cannot work at all, or nodes died too often.

    Examples:
        >>> summary = emi_ray.extract("work", ["text"])
        >>> summary.stages["text"].ok, summary.stages["text"].failed
        (48, 0)
    """
    from emi_ray.extraction import run as extraction
    from emi_ray.runtime import ray_session

    target = workspace_of(workspace)
    config = target.config(overrides_of(settings))
    extraction.check(target, config, modalities)
    extraction.require_alone(target)
    with ray_session(address, streaming=True):
        return extraction.extract(target, config, modalities, retry_failed, on_progress)


def plan_extraction(
    workspace: WorkspaceLike,
    modalities: Sequence[Modality] | None = None,
    *,
    settings: Overrides = (),
    address: str | None = None,
) -> "tuple[dict[str, Pool], Measurement]":
    """Measure each stage of an extraction on a few clips, and propose the number of its actors. Nothing is written.

    Raises:
        UserError: a setting is invalid, weights are not available, or the corpus has no clips.
    """
    from emi_ray.extraction import run as extraction
    from emi_ray.runtime import ray_session

    target = workspace_of(workspace)
    config = target.config(overrides_of(settings))
    extraction.check(target, config, modalities)
    with ray_session(address):
        return extraction.plan(target, config, modalities)
