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
    folders = [folder for store in stores for folder in (store.held, failure_parts(store))]
    if pipeline.transcriber is not None:
        folders.append(TranscriptStore(pipeline.workspace, pipeline.transcriber.fingerprint).held)
    merge = ray.remote(num_cpus=1, max_retries=3)(_merge)
    ray.get([merge.remote(folder, group) for folder in folders for group in mergeable(folder)])
    for folder in folders:
        folder.tidy()


def _merge(folder: PartFolder, parts: list[str]) -> None:
    folder.merge(parts)
