from emi_ray.config import ExtractionSettings, WorkspaceConfig
from emi_ray.extraction.pipeline import specify_all
from emi_ray.extraction.pools import plan_pools
from emi_ray.runtime import MIN_LOGICAL_CPUS, Machine

SPECS = specify_all(WorkspaceConfig(), None)


def test_all_pools_of_a_small_machine_fit_at_once():
    pools = plan_pools(Machine(cpus=2, gpus=0), SPECS, ExtractionSettings())
    assert sum(pool.max_actors * pool.num_cpus for pool in pools.values()) < MIN_LOGICAL_CPUS


def test_pools_grow_with_the_machine():
    pools = plan_pools(Machine(cpus=64, gpus=0), SPECS, ExtractionSettings())
    assert pools["decode"].max_actors == 64
    assert sum(pool.max_actors * pool.num_cpus for pool in pools.values()) <= 64


def test_numbers_set_by_hand_win():
    settings = ExtractionSettings.model_validate({"stages": {"audio": {"max_actors": 3, "batch_size": 5}}})
    pool = plan_pools(Machine(cpus=2, gpus=0), SPECS, settings)["audio"]
    assert (pool.max_actors, pool.batch_size) == (3, 5)
