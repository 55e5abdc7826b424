"""The model of `benchmarks/simulate.py`, in cases that can be computed by hand."""

import pytest

from benchmarks.simulate import Cluster, Costs, costs_of, simulate

COSTS = Costs({"decode": 0.2, "motion": 0.1}, {"vision": 0.05}, driver_s=0.001, start_s=10)


@pytest.mark.parametrize(
    ("cluster", "bottleneck", "rate"),
    [
        (Cluster(cores=3, gpus=1), "all cores", 10),
        (Cluster(cores=30, gpus=1), "GPU models", 20),
        (Cluster(cores=30, gpus=8, stages={"decode": 1}), "decode", 5),
        (Cluster(cores=3000, gpus=100), "driver", 1000),
    ],
)
def test_the_slowest_holds_the_run_up(cluster, bottleneck, rate):
    outcome = simulate(COSTS, cluster, 1000)
    assert (outcome.bottleneck, outcome.clips_per_s) == (bottleneck, pytest.approx(rate))
    assert outcome.seconds == pytest.approx(10 + 1000 / rate)


def test_spot_losses_take_their_share_of_the_time():
    spot = {"losses_per_machine_hour": 1, "replaced_after_s": 300, "done_again_s": 100}
    assert simulate(COSTS, Cluster(3, 1), 1000, spot).clips_per_s == pytest.approx(10 * 3600 / 4000)


def test_costs_are_those_of_a_record_and_waiting_for_a_core_is_none():
    record = {
        "clips": 100,
        "seconds": 60,
        "cores": 2,
        "stages": {"decode": {"busy_s": 60}, "audio": {"busy_s": 20}},
    }
    assert costs_of(record, start_s=10, driver_s=0).cpu == {"decode": 0.6, "audio": 0.2}
    waiting = {**record, "seconds": 30}  # 40 s of cores were there, and 80 s were busy
    assert costs_of(waiting, start_s=10, driver_s=0).cpu == {"decode": 0.3, "audio": 0.1}
