"""Actors on the CPU are divided among nodes by their cores; the placement itself is tested in ``tests/cluster``."""

from collections import Counter
from typing import ClassVar

import pytest

from emi_ray.config import ExtractionSettings
from emi_ray.extraction.load_balancing import _create, balance_pools
from emi_ray.extraction.placement import Places
from emi_ray.extraction.pools import plan_pools
from emi_ray.runtime import Machine

A, B, C = (letter * 56 for letter in "abc")
STAGES = {"decode": False, "vision": True}


def divided(nodes: dict[str, Machine], **by_hand: dict) -> dict[str, int]:
    """Return the number of decoders on each node."""
    total = Machine(sum(n.cpus for n in nodes.values()), sum(n.gpus for n in nodes.values()))
    pools = plan_pools(total, STAGES, ExtractionSettings(stages=by_hand))
    places = Places.among(nodes, pools)
    assert places is not None
    return dict(Counter(places.next().node_id for _ in range(pools["decode"].max_actors)))


@pytest.mark.parametrize(
    ("nodes", "decoders"),
    [
        ({A: Machine(2, 2), B: Machine(10, 0)}, {B: 10}),
        ({A: Machine(8, 4), B: Machine(8, 4), C: Machine(32, 0)}, {A: 4, B: 4, C: 32}),
        ({A: Machine(16, 1), B: Machine(8, 1)}, {A: 15, B: 7}),
        ({A: Machine(0, 0), B: Machine(4, 1), C: Machine(6, 0)}, {B: 3, C: 6}),
        ({A: Machine(1, 4), B: Machine(2, 4)}, {B: 1}),  # too few cores for the processes on GPUs alone
    ],
)
def test_decoders_are_where_cores_are_left_by_the_processes_on_gpus(nodes, decoders):
    assert divided(nodes) == decoders


def test_half_a_gpu_per_process_means_two_cores_per_gpu():
    nodes = {A: Machine(8, 2), B: Machine(8, 0)}
    assert divided(nodes, vision={"num_gpus": 0.5}) == {A: 4, B: 8}


def test_stages_with_a_pool_each_are_counted_together():
    places = Places({A: 3, B: 1})
    assert Counter(places.next().node_id for _ in range(2)) == {A: 2}
    assert Counter(places.next().node_id for _ in range(2)) == {A: 1, B: 1}


def test_one_node_and_equal_nodes_are_left_to_ray():
    assert Places.among({A: Machine(8, 1)}, {}) is None
    assert Places.among({A: Machine(0, 0), B: Machine(8, 1)}, {}) is None
    assert Places.among({A: Machine(8, 1), B: Machine(8, 1)}, {}) is None


def test_pipelines_of_the_user_keep_their_places():
    class Operator:
        name = "MapBatches(Mine)"
        _ray_remote_args: ClassVar[dict] = {"scheduling_strategy": "SPREAD"}

        def start(self, *arguments):
            return arguments

    class Ours(Operator):
        name = "MapBatches(StageChain)"
        _ray_remote_args: ClassVar[dict] = {}

    balance_pools(Places({A: 2, B: 1}))
    try:
        assert _create(Operator().start, 1, 2) == (1, 2)
        assert Operator._ray_remote_args == {"scheduling_strategy": "SPREAD"}
        _create(Ours().start)
        assert Ours._ray_remote_args["scheduling_strategy"].node_id == A
    finally:
        balance_pools(None)
