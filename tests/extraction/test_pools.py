import pytest

from emi_ray.config import ExtractionSettings
from emi_ray.extraction.pools import Measurement, plan_pools
from emi_ray.runtime import MIN_LOGICAL_CPUS, Machine

BUILT_IN = dict.fromkeys(["decode", "vision", "motion", "audio", "text"], False)
PRETRAINED = {"decode": False, "vision": True, "audio": True, "text": True}
DEFAULTS = ExtractionSettings()


def test_all_pools_of_a_small_machine_fit_at_once():
    pools = plan_pools(Machine(cpus=2, gpus=0), BUILT_IN, DEFAULTS)
    assert sum(pool.max_actors * pool.num_cpus for pool in pools.values()) < MIN_LOGICAL_CPUS


@pytest.mark.parametrize("cpus", [1, 2, 7, 64])
def test_no_machine_is_asked_for_more_than_it_has(cpus):
    pools = plan_pools(Machine(cpus, gpus=0), BUILT_IN, DEFAULTS)
    assert sum(pool.max_actors * pool.num_cpus for pool in pools.values()) <= max(cpus, MIN_LOGICAL_CPUS)


def test_cores_are_shared_by_the_time_that_stages_take():
    seconds = {"decode": 3.0, "vision": 4.0, "motion": 1e-3, "audio": 1.0, "text": 1e-3}
    pools = plan_pools(Machine(cpus=16, gpus=0), BUILT_IN, DEFAULTS, Measurement(seconds, seconds))
    assert {name: pool.max_actors for name, pool in pools.items()} == {
        "decode": 6,
        "vision": 8,
        "motion": 1,
        "audio": 2,
        "text": 1,
    }


def test_pretrained_models_share_one_gpu():
    pools = plan_pools(Machine(cpus=16, gpus=1), PRETRAINED, DEFAULTS)
    assert sum(pool.num_gpus * pool.max_actors for pool in pools.values()) == pytest.approx(1)
    assert pools["decode"].max_actors == 16


def test_every_gpu_gets_one_actor_of_each_model():
    pools = plan_pools(Machine(cpus=64, gpus=4), PRETRAINED, DEFAULTS)
    assert {pools[name].max_actors for name in ("vision", "audio", "text")} == {4}


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
