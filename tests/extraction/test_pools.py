from collections.abc import Mapping
from types import SimpleNamespace

import pyarrow as pa
import pytest

from emi_ray.config import ExtractionSettings, WorkspaceConfig
from emi_ray.extraction.pipeline import ORDER, Pipeline, _blocks
from emi_ray.extraction.pools import Measurement, Pool, plan_pools, processes_of
from emi_ray.runtime import MIN_LOGICAL_CPUS, Machine
from emi_ray.workspace import Workspace

BUILT_IN = dict.fromkeys(["decode", "vision", "motion", "audio", "text"], False)
PRETRAINED = {"decode": False, "vision": True, "audio": True, "text": True}
DEFAULTS = ExtractionSettings()
APART = ExtractionSettings.model_validate({"stages": {name: {"threads": 1} for name in BUILT_IN}})


def reserved_cpus(pools: Mapping[str, Pool]) -> float:
    ends = [pools[names[-1]] for names in processes_of(pools)]
    return sum(pool.max_actors * pool.num_cpus for pool in ends)


def test_all_pools_of_a_small_machine_fit_at_once():
    pools = plan_pools(Machine(cpus=2, gpus=0), BUILT_IN, APART)
    assert len(processes_of(pools)) == len(BUILT_IN)
    assert reserved_cpus(pools) < MIN_LOGICAL_CPUS


@pytest.mark.parametrize("settings", [DEFAULTS, APART])
@pytest.mark.parametrize("cpus", [1, 2, 7, 64])
def test_no_machine_is_asked_for_more_than_it_has(cpus, settings):
    pools = plan_pools(Machine(cpus, gpus=0), BUILT_IN, settings)
    assert reserved_cpus(pools) <= max(cpus, MIN_LOGICAL_CPUS)


@pytest.mark.parametrize(("cpus", "gpus"), [(1, 0), (1, 4), (2, 8), (8, 8)])
@pytest.mark.parametrize("stages", [BUILT_IN, PRETRAINED])
def test_all_pools_fit_into_a_cluster_with_few_cores(cpus, gpus, stages):
    """Started by ``ray start``, a node has no more logical CPUs than cores."""
    pools = plan_pools(Machine(cpus, gpus), stages, DEFAULTS)
    assert all(pool.num_cpus == 0 for pool in pools.values() if pool.num_gpus)
    assert all(pool.max_actors >= 1 for pool in pools.values())
    assert reserved_cpus(pools) <= cpus


@pytest.mark.parametrize(("num_clips", "rows"), [(3, 1), (60, 8), (1000, 16), (100_000, 512)])
def test_few_clips_are_spread_over_all_actors(num_clips, rows):
    pools = plan_pools(Machine(cpus=1, gpus=8), PRETRAINED, DEFAULTS)
    blocks = _blocks(pa.table({"clip_id": pa.array(range(num_clips))}), pools, DEFAULTS.rows_per_block)
    assert blocks[0].num_rows == rows
    assert sum(block.num_rows for block in blocks) == num_clips


def test_blocks_of_decoded_clips_are_no_larger_than_the_object_store_allows():
    pools = plan_pools(Machine(cpus=1, gpus=8), PRETRAINED, DEFAULTS)
    work = pa.table({"clip_id": pa.array(range(100_000))})
    assert DEFAULTS.rows_per_block <= _blocks(work, pools, DEFAULTS.rows_per_block, most=40)[0].num_rows <= 40
    assert _blocks(work, pools, DEFAULTS.rows_per_block, most=3)[0].num_rows == DEFAULTS.rows_per_block


def test_cores_are_shared_by_the_time_that_stages_take():
    seconds = {"decode": 3.0, "vision": 4.0, "motion": 1e-3, "audio": 1.0, "text": 1e-3}
    pools = plan_pools(Machine(cpus=16, gpus=0), BUILT_IN, APART, Measurement(seconds, seconds))
    assert {name: pool.max_actors for name, pool in pools.items()} == {
        "decode": 6,
        "vision": 8,
        "motion": 1,
        "audio": 2,
        "text": 1,
    }


def test_stages_without_a_model_share_the_processes_of_all_cores():
    pools = plan_pools(Machine(cpus=4, gpus=0), BUILT_IN, DEFAULTS)
    assert processes_of(pools) == [list(BUILT_IN)]
    assert {(pool.max_actors, pool.batch_size, pool.threads) for pool in pools.values()} == {(4, 8, 1)}


def test_a_stage_with_numbers_set_by_hand_has_its_own_processes():
    settings = ExtractionSettings.model_validate({"stages": {"motion": {"max_actors": 3}}})
    pools = plan_pools(Machine(cpus=4, gpus=0), BUILT_IN, settings)
    assert processes_of(pools) == [["decode", "vision"], ["motion"], ["audio", "text"]]
    assert pools["motion"].max_actors == 3


def test_a_model_on_the_cpu_keeps_its_own_processes():
    stages = {"decode": False, "motion": False, "vision": True, "audio": True}
    pools = plan_pools(Machine(cpus=4, gpus=0), stages, DEFAULTS)
    assert processes_of(pools) == [["decode", "motion"], ["vision"], ["audio"]]


def test_pretrained_models_share_one_gpu():
    pools = plan_pools(Machine(cpus=16, gpus=1), PRETRAINED, DEFAULTS)
    assert processes_of(pools) == [["decode"], ["vision", "audio", "text"]]
    assert (pools["vision"].max_actors, pools["vision"].num_gpus) == (1, 1)
    assert pools["decode"].max_actors == 15


TEXT = {"decode": False, "text": True}


def test_where_no_file_is_read_decoding_joins_the_next_stage_on_the_cpu():
    pools = plan_pools(Machine(cpus=4, gpus=0), TEXT, DEFAULTS, reads_media=False)
    assert processes_of(pools) == [["decode", "text"]]
    assert pools["text"].max_actors == 4
    on_gpu = plan_pools(Machine(cpus=4, gpus=1), TEXT, DEFAULTS, reads_media=False)
    assert processes_of(on_gpu) == [["decode"], ["text"]]
    by_hand = ExtractionSettings.model_validate({"stages": {"decode": {"max_actors": 1}}})
    apart = plan_pools(Machine(cpus=4, gpus=0), TEXT, by_hand, reads_media=False)
    assert processes_of(apart) == [["decode"], ["text"]]
    text_by_hand = ExtractionSettings.model_validate({"stages": {"text": {"max_actors": 3, "batch_size": 5}}})
    together = plan_pools(Machine(cpus=4, gpus=0), TEXT, text_by_hand, reads_media=False)
    assert processes_of(together) == [["decode", "text"]]
    assert {(pool.max_actors, pool.batch_size) for pool in together.values()} == {(3, 5)}


def test_a_stage_without_numbers_is_not_set_by_hand():
    settings = ExtractionSettings.model_validate({"stages": {"motion": {}}})
    pools = plan_pools(Machine(cpus=4, gpus=0), BUILT_IN, settings)
    assert processes_of(pools) == [list(BUILT_IN)]


def test_every_gpu_gets_one_actor_of_each_model():
    pools = plan_pools(Machine(cpus=64, gpus=4), PRETRAINED, DEFAULTS)
    assert {pools[name].max_actors for name in ("vision", "audio", "text")} == {4}


def test_no_gpus_set_by_hand_keeps_a_model_on_the_cpu():
    settings = ExtractionSettings.model_validate({"stages": {"audio": {"num_gpus": 0}}})
    pools = plan_pools(Machine(cpus=8, gpus=2), {"decode": False, "audio": True, "text": True}, settings)
    assert [pool.num_gpus for pool in pools.values()] == [0, 0, 1]


def test_half_a_gpu_set_by_hand_makes_two_processes_a_gpu():
    settings = ExtractionSettings.model_validate({"stages": {"audio": {"num_gpus": 0.5}}})
    pools = plan_pools(Machine(cpus=8, gpus=3), PRETRAINED, settings)
    assert {pools[name].max_actors for name in ("vision", "audio", "text")} == {6}


@pytest.mark.parametrize(
    ("cpus", "actors", "threads"), [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 4, 2), (32, 4, 8), (64, 8, 8)]
)
def test_a_model_on_the_cpu_has_an_actor_a_core_before_an_actor_has_two_threads(cpus, actors, threads):
    pool = plan_pools(Machine(cpus, gpus=0), PRETRAINED, DEFAULTS)["vision"]
    assert (pool.max_actors, pool.threads) == (actors, threads)


def test_numbers_set_by_hand_win():
    settings = ExtractionSettings.model_validate({"stages": {"audio": {"max_actors": 3, "batch_size": 5}}})
    pool = plan_pools(Machine(cpus=2, gpus=0), BUILT_IN, settings)["audio"]
    assert (pool.max_actors, pool.batch_size) == (3, 5)


@pytest.mark.parametrize(
    ("on_gpu", "by_hand", "processes"),
    [
        ({"vision", "audio", "text"}, None, ["decode+motion", "vision+audio+transcript+text"]),
        ({"vision"}, None, ["decode+motion+audio", "vision+transcript", "text"]),
        ({"vision", "audio", "text"}, "audio", ["decode+motion", "audio", "vision+transcript+text"]),
        ({"vision", "audio", "text"}, "transcript", ["decode+motion", "transcript", "vision+audio+text"]),
    ],
)
def test_stages_on_the_gpu_stand_together(on_gpu, by_hand, processes):
    stages = {by_hand: {"num_gpus": 0}} if by_hand else {}
    config = WorkspaceConfig.model_validate({"extraction": {"stages": stages}})
    specs = {m: SimpleNamespace(kind=SimpleNamespace(USES_GPU=m in on_gpu)) for m in ORDER}
    pipeline = Pipeline(Workspace("unused"), config, specs, transcriber=SimpleNamespace())
    pools = plan_pools(Machine(cpus=16, gpus=2), pipeline.stages, config.extraction)
    assert ["+".join(names) for names in processes_of(pools)] == processes
