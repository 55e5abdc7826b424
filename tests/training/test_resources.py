import pytest

from emi_ray.errors import UserError
from emi_ray.runtime import Machine
from emi_ray.training import resources
from emi_ray.training.resources import gpu_shares, jobs_per_gpu, size_jobs
from emi_ray.tuning.samplers import SAMPLERS, SCHEDULERS, build_sampler

GIB = 1 << 30


@pytest.fixture
def on_machine(monkeypatch):
    def pretend(cpus: int, gpus: int) -> None:
        monkeypatch.setattr(resources, "machine", lambda: Machine(cpus, gpus))
        monkeypatch.setattr(resources.os, "cpu_count", lambda: cpus)

    return pretend


def test_without_a_gpu_one_trial_a_core(on_machine):
    on_machine(8, 0)
    sized = size_jobs(GIB)
    assert (sized.concurrent, sized.cpus, sized.gpus, sized.threads) == (8, 1.0, 0.0, 1)


def test_fewer_trials_have_more_threads_and_more_have_shares_of_cores(on_machine):
    on_machine(8, 0)
    assert size_jobs(GIB, concurrent=2).threads == 4
    assert size_jobs(GIB, concurrent=16).cpus == 0.5


def test_as_many_trials_share_a_gpu_as_its_memory_holds(on_machine):
    on_machine(32, 2)
    sized = size_jobs(8 * GIB, gpu_bytes=40 * GIB)
    assert sized.gpus == pytest.approx(1 / 3)
    assert sized.concurrent == 6
    assert jobs_per_gpu(100 * GIB, 40 * GIB) == 1


def test_cores_bound_the_trials_of_a_gpu_too(on_machine):
    on_machine(4, 2)
    assert size_jobs(GIB // 10, gpu_bytes=80 * GIB).concurrent == 4


def test_gpus_that_are_not_there_are_refused(on_machine):
    on_machine(4, 0)
    with pytest.raises(UserError, match="has 0 GPUs"):
        size_jobs(GIB, gpus=0.5)


@pytest.mark.parametrize(
    ("num_jobs", "gpus", "most"), [(1, 4, 4), (5, 4, 4), (6, 4, 2), (8, 4, 2), (7, 2, 8), (9, 4, 2)]
)
def test_shares_fill_every_gpu_that_has_a_training(num_jobs, gpus, most):
    shares = gpu_shares(num_jobs, gpus, most)
    assert len(shares) == num_jobs
    first = shares[: gpus * most]
    # Whole GPUs are filled one after the other, as Ray places them, and all are in use.
    assert sum(first) == pytest.approx(min(num_jobs, gpus))
    assert min(shares) >= 1 / most - 1e-9


def test_every_sampler_and_scheduler_can_be_built():
    assert all(build_sampler(name, 1, 0) is not None for name in SAMPLERS)
    assert all(build(num_steps) is not None for build in SCHEDULERS.values() for num_steps in (1, 9, 50))
