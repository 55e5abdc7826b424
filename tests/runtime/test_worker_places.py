"""The places of Ray Train's workers: what it forgot to free, and what it waits for."""

import logging
import time

import pytest
import ray
from planted import planted_workspace

from emi_ray.errors import EmiRayError
from emi_ray.recipe.loading import load_recipe
from emi_ray.runtime.worker_places import WorkerPlaces

pytestmark = pytest.mark.usefixtures("ray_session")


def state_of(group) -> str:
    return ray.util.placement_group_table(group)["state"]


def test_a_forgotten_group_of_workers_gives_way_to_the_next():
    callers = ray.util.placement_group([{"CPU": 1}])
    assert callers.wait(30)
    now = [0.0]
    places = WorkerPlaces("text/1", lambda: now[0])
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
    places = WorkerPlaces("text/1", lambda: now[0])
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


def test_more_workers_than_there_is_room_for_end_with_a_sentence(tmp_path, monkeypatch):
    from emi_ray.training.runs import RunRequest, train_runs

    monkeypatch.setenv("EMI_RAY_WAIT_S", "3")
    workspace = planted_workspace(tmp_path / "w", num_train=24, num_val=12)
    started = time.monotonic()
    recipe = load_recipe("text", ["encoders.text.hidden=8", "training.epochs=1"], any_features=True)
    (result,) = train_runs(workspace, [RunRequest(recipe, 1)], workspace.config(), num_workers=40)
    assert isinstance(result.problem, EmiRayError)
    assert "no room for 40 workers within 3 s (EMI_RAY_WAIT_S); the cluster has 8 CPU" in str(result.problem)
    assert time.monotonic() - started < 60
