"""Placement groups that Ray Train leaves behind are removed, and a lack of room for workers is reported."""

import logging
import os

import pytest
import ray
from planted import planted_workspace

from emi_ray.errors import EmiRayError, UserError
from emi_ray.recipe.loading import load_recipe
from emi_ray.runtime.worker_places import WorkerPlaces

pytestmark = pytest.mark.usefixtures("ray_session")


def state_of(group) -> str:
    return ray.util.placement_group_table(group)["state"]


def test_a_forgotten_group_of_workers_gives_way_to_the_next():
    callers = ray.util.placement_group([{"CPU": 1}])
    assert callers.wait(30)
    now = [0.0]
    places = WorkerPlaces("text/1", 1, lambda: now[0])
    all_the_rest = [{"CPU": ray.cluster_resources()["CPU"] - 1}]
    forgotten = ray.util.placement_group(all_the_rest)
    assert forgotten.wait(30)
    places.update()
    assert state_of(forgotten) == "CREATED", "nobody waits for its places"
    wanted = ray.util.placement_group(all_the_rest)
    try:
        assert not wanted.wait(2)
        now[0] = 10.0
        places.update()
        assert wanted.wait(30)
        assert state_of(forgotten) == "REMOVED"
        assert state_of(callers) == "CREATED", "it belongs to the program that trains"
    finally:
        ray.util.remove_placement_group(wanted)
        ray.util.remove_placement_group(callers)


def test_a_long_wait_is_said_once_with_what_lacks(caplog):
    now = [0.0]
    places = WorkerPlaces("text/1", 2, lambda: now[0])
    wanted = ray.util.placement_group([{"CPU": 1, "GPU": 1}] * 2)
    try:
        with caplog.at_level(logging.WARNING):
            for now[0] in (0.0, 10.0, 30.0, 60.0):
                places.update()
    finally:
        ray.util.remove_placement_group(wanted)
    assert [record.message for record in caplog.records] == [
        "text/1 waits for room for 2 workers, each with 1 CPU and 1 GPU; the cluster has 8 CPU and 0 GPU."
    ]


def test_the_end_of_a_run_frees_its_places_for_the_next():
    callers = ray.util.placement_group([{"CPU": 1}])
    assert callers.wait(30)
    places = WorkerPlaces("text/1", 1)
    left, of_another_size = (ray.util.placement_group([{"CPU": 1}] * size) for size in (1, 2))
    try:
        assert left.wait(30)
        assert of_another_size.wait(30)
        places.close()
        assert state_of(left) == "REMOVED"
        assert state_of(of_another_size) == state_of(callers) == "CREATED", (
            "they belong to the program that trains"
        )
    finally:
        ray.util.remove_placement_group(of_another_size)
        ray.util.remove_placement_group(callers)


def train_text(folder, num_workers):
    from emi_ray.training.runs import RunRequest, train_runs

    workspace = planted_workspace(folder, num_train=24, num_val=12)
    recipe = load_recipe("text", ["encoders.text.hidden=8", "training.epochs=1"], any_features=True)
    (result,) = train_runs(workspace, [RunRequest(recipe, 1)], workspace.config(), num_workers=num_workers)
    return result.problem


def test_more_workers_than_the_machine_has_cpus_are_refused_at_once(tmp_path):
    problem = train_text(tmp_path / "w", 40)
    assert isinstance(problem, UserError)
    assert str(problem) == "--workers 40: this machine has room for 8 workers at most."


def test_without_room_for_the_workers_the_run_ends_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("EMI_RAY_WAIT_S", "3")
    monkeypatch.setattr("emi_ray.training.ray_train._LEAST_START_S", 2)
    others = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"] - 1}])
    try:
        assert others.wait(30)
        problem = train_text(tmp_path / "w", 2)
    finally:
        ray.util.remove_placement_group(others)
    assert isinstance(problem, EmiRayError)
    assert "no room for 2 workers within 3 s (EMI_RAY_WAIT_S); the cluster has 8 CPU" in str(problem)


@pytest.mark.long
def test_a_worker_that_dies_while_its_group_starts_is_replaced(tmp_path, monkeypatch, caplog):
    from ray.train.torch.config import _TorchBackend

    from emi_ray.training import ray_train

    is_dead = tmp_path / "is-dead"

    class DyingOnce(_TorchBackend):
        def on_training_start(self, worker_group, backend_config):
            if not is_dead.exists():
                is_dead.touch()
                worker_group.execute_single(1, os._exit, 1)

    class Config(ray_train.TorchConfig):
        @property
        def backend_cls(self):
            return DyingOnce

    monkeypatch.setattr(ray_train, "TorchConfig", Config)
    # The cluster has room for one group of workers only.
    callers = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"] - 3}])
    try:
        assert callers.wait(30)
        with caplog.at_level(logging.INFO):
            problem = train_text(tmp_path / "w", 2)
    finally:
        ray.util.remove_placement_group(callers)
    assert is_dead.exists()
    assert problem is None
    assert any("Freeing the places of workers of text/1" in record.message for record in caplog.records)
