"""Actors that start together agree on the precision of the features that they write."""

import os
import threading
import time

import numpy as np
import pytest
import ray

from emi_ray.config import WorkspaceConfig
from emi_ray.extraction.agreement import agreed
from emi_ray.extraction.batches import Attempt
from emi_ray.extraction.extract_stage import Extract
from emi_ray.extraction.pools import Pool
from emi_ray.extraction.watchdog import Limits
from emi_ray.extractors import Features, specify
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import CONFIG, Workspace

POOL = Pool(batch_size=8, max_actors=2, num_cpus=1, num_gpus=0, threads=1)


def test_the_first_proposal_counts_for_every_process(ray_session):
    @ray.remote(num_cpus=0)
    def propose(index: int) -> int:
        answer = agreed("which index", index)
        time.sleep(0.5)  # as an actor that goes on working
        return answer

    answers = ray.get([propose.remote(index) for index in range(4)])
    assert len(set(answers)) == 1


def test_the_end_of_the_process_that_was_first_ends_nothing_else(ray_session):
    @ray.remote(num_cpus=0, max_retries=0)
    def first() -> None:
        agreed("after a kill", "first")
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(first.remote())
    assert agreed("after a kill", "second") in ("first", "second")


def test_without_ray_a_process_is_alone(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert agreed("alone", 3) == 3
    assert agreed("alone", 4) == 4


def test_two_actors_that_would_choose_differently_write_in_one_precision(tmp_path, ray_session, monkeypatch):
    workspace = Workspace(str(tmp_path))
    workspace.write_text(CONFIG, "")
    config = WorkspaceConfig()
    spec = specify("text", config.extractors["text"], config.media)
    actors = [Extract(workspace, spec, [], POOL, Limits(60.0, 1 << 30)) for _ in range(2)]
    small, large = np.ones((1, 3), np.float32), np.full((1, 3), 1e5, np.float32)
    write = Workspace.write_json

    def write_late(self, relative, value):
        time.sleep(0.5)  # so that the other actor has looked
        write(self, relative, value)

    monkeypatch.setattr(Workspace, "write_json", write_late)
    results: dict[int, list[Attempt[Features]]] = {}

    def extract(index: int) -> None:
        found = Features((small, large)[index], np.zeros(1))
        results[index] = actors[index]._in_precision([Attempt(f"clip-{index}", found)])

    threads = [threading.Thread(target=extract, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    recorded = FeatureStore(workspace, "text", spec.fingerprint).dtype
    assert actors[0]._store.dtype == actors[1]._store.dtype == recorded
    for index in range(2):
        [result] = results[index]
        assert result.result is None or result.result.values.dtype == recorded
    assert results[0][0].result is not None
