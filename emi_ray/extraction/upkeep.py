"""After a run: small parts become few, rows that a crash left twice become one, and the index knows all parts."""

import ray

from emi_ray.extraction.pipeline import Pipeline
from emi_ray.extraction.work import store_of
from emi_ray.failures import failure_parts
from emi_ray.merging import mergeable
from emi_ray.parts import PartFolder
from emi_ray.transcript_store import TranscriptStore


def tidy_up(pipeline: Pipeline) -> None:
    """Bring the folders that a run has written to into order. Parts are merged by tasks on all nodes."""
    stores = [store_of(pipeline.workspace, spec) for spec in pipeline.specs.values()]
    held, failures = [store.held for store in stores], [failure_parts(store) for store in stores]
    if pipeline.transcriber is not None:
        held.append(TranscriptStore(pipeline.workspace, pipeline.transcriber.fingerprint).held)
    merge = ray.remote(num_cpus=1, max_retries=3)(_merge)
    groups = [(folder, group) for folder in [*held, *failures] for group in mergeable(folder)]
    if groups:
        ray.get([merge.remote(folder, group) for folder, group in groups])
    for folder in held:
        folder.tidy()
    for folder in failures:  # a clip stands there once an attempt
        folder.refresh_index()


def _merge(folder: PartFolder, parts: list[str]) -> None:
    folder.merge(parts)
