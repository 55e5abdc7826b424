"""Estimate the duration, the bottleneck and the cost of an extraction on clusters of other sizes.

    python benchmarks/simulate.py                                  # the table, from simulate_costs.yaml
    python benchmarks/simulate.py --record 360p=W/extractions/START.json
    python benchmarks/simulate.py --measure --clips CLIPS --num 240   # the check against runs on this machine

The model. Clips flow through pools of processes, one pool a stage, so that the rate is that of the slowest pool, or
of all cores together where the stages on CPUs want more than there are:

    rate = min over stages (processes of the stage / seconds a clip), cores / (CPU seconds a clip over all stages)
    time = start-up + clips / rate / (share of the machines' time that is left by spot losses)

A lost spot machine is away until another has come and loaded its models, and what it had in hand is done again.
Assumed: stages overlap fully, storage and network keep up, decoding grows with the number of cores, and the driver
costs ``driver_s`` a clip, one after the other. Seconds a clip on CPUs are measured; those on GPUs are assumed, for
none was at hand; prices are those of the file.
"""

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from emi_ray.corpus.folder import VIDEO_SUFFIXES

GPUS, CORES_PER_GPU, CLIPS = (1, 8, 64), (4, 12, 24), (12_660, 1_000_000)
COSTS = Path(__file__).with_name("simulate_costs.yaml")

FEW = 8
"""Clips of the run that shows the costs of starting."""


@dataclass(frozen=True)
class Cluster:
    """A cluster; ``stages`` maps a stage to its fixed number of processes, and the other stages share the cores."""

    cores: float
    gpus: int = 0
    stages: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Costs:
    """Seconds per clip of each stage on a core and on a GPU, and of the driver; seconds until the first clip is
    done.
    """

    cpu: Mapping[str, float]
    gpu: Mapping[str, float]
    driver_s: float
    start_s: float


@dataclass(frozen=True)
class Outcome:
    clips_per_s: float
    bottleneck: str
    seconds: float


def simulate(costs: Costs, cluster: Cluster, clips: int, spot: Mapping[str, float] | None = None) -> Outcome:
    """Return throughput, bottleneck and duration of an extraction of ``clips`` clips."""
    rates = {"all cores": cluster.cores / sum(costs.cpu.values())}
    rates |= {
        stage: n / costs.cpu[stage] for stage, n in (cluster.stages or {}).items() if stage in costs.cpu
    }
    if costs.gpu:  # each process holds all models and has one GPU, which they share
        rates["GPU models"] = cluster.gpus / sum(costs.gpu.values())
    rates["driver"] = 1 / costs.driver_s
    bottleneck = min(rates, key=rates.__getitem__)
    rate = rates[bottleneck] * (1 - _lost_share(spot))
    return Outcome(rate, bottleneck, costs.start_s + clips / rate)


def _lost_share(spot: Mapping[str, float] | None) -> float:
    """Return the share of its time in which a machine is away or repeats the work of a lost machine."""
    if not spot:
        return 0.0
    lost_s = spot["losses_per_machine_hour"] * (spot["replaced_after_s"] + spot["done_again_s"])
    return lost_s / (3600 + lost_s)


def costs_of(record: Mapping[str, Any], start_s: float, driver_s: float) -> Costs:
    """Seconds a clip on CPUs, as a record of an extraction measured them. Where more was wanted than there are cores,
    processes waited for a core while they were busy, and that is taken off again."""
    busy = {name: stage["busy_s"] for name, stage in record["stages"].items()}
    cores = record["cores"] if "cores" in record else sum(node["cpus"] for node in record["nodes"])
    there = cores * max(record["seconds"] - start_s, 1.0)
    share = min(1.0, there / sum(busy.values())) / max(record["clips"], 1)
    return Costs({name: seconds * share for name, seconds in busy.items()}, {}, driver_s, start_s)


def print_table(told: Mapping[str, Any], measured: Mapping[str, Costs]) -> None:
    """Print a row for each number of clips, resolution, number of GPUs, and number of cores per GPU."""
    print("clips,resolution,GPUs,cores,clips/s,bottleneck,hours,hours with spot losses,USD,USD on spot")
    for clips, (name, cpu), gpus, per_gpu in itertools.product(CLIPS, measured.items(), GPUS, CORES_PER_GPU):
        costs = Costs(cpu.cpu, told["gpu_assumed_s"], cpu.driver_s, told["start_s"])
        cluster, price = Cluster(gpus * per_gpu, gpus), told["usd_per_hour"]
        calm, spot = simulate(costs, cluster, clips), simulate(costs, cluster, clips, told["spot"])
        hourly = gpus * price["gpu"] + cluster.cores * price["core"]
        on_spot = spot.seconds / 3600 * hourly * price["spot_share"]
        numbers = (
            f"{calm.clips_per_s:.1f},{calm.bottleneck},{calm.seconds / 3600:.2f},{spot.seconds / 3600:.2f}"
        )
        print(
            f"{clips},{name},{gpus},{cluster.cores},{numbers},{calm.seconds / 3600 * hourly:.2f},{on_spot:.2f}"
        )
    print("measured: seconds a clip on CPUs: " + json.dumps({n: dict(c.cpu) for n, c in measured.items()}))
    print("assumed: seconds a clip on a GPU, prices, spot losses: " + json.dumps(told["gpu_assumed_s"]))


def measure(clips: Path, num: int) -> None:
    """Extract on this machine with one and with two decoding processes, and predict each run from the other.

    The costs are seconds of CPU time as the kernel counted them. Working time as the stages see it would grow with
    the load, because they wait for a core whenever there are more processes than cores.
    """
    with tempfile.TemporaryDirectory(prefix="emi-ray-simulate-") as name:
        folder = Path(name)
        few = {workers: _extract(folder / f"few{workers}", clips, FEW, workers) for workers in (1, 2)}
        many = {workers: _extract(folder / f"many{workers}", clips, num, workers) for workers in (1, 2)}
    costs = {workers: _costs_between(few[workers], many[workers], num - FEW) for workers in (1, 2)}
    for workers in (1, 2):
        told = ", ".join(f"{stage} {seconds * 1000:.0f}" for stage, seconds in costs[workers].cpu.items())
        print(f"{workers} workers: {many[workers].seconds:.1f} s; CPU time in ms a clip: {told}")
    for known, told_for in ((1, 2), (2, 1)):
        cluster = Cluster(os.cpu_count() or 1, stages={"decode": told_for})
        foretold, seen = simulate(costs[known], cluster, num - FEW), many[told_for].seconds
        print(
            f"{told_for} workers, foretold from {known}: {foretold.seconds:.1f} s ({foretold.bottleneck}), measured "
            f"{seen:.1f} s, ratio {foretold.seconds / seen:.2f}; with {FEW} clips {few[told_for].seconds:.1f} s"
        )


@dataclass(frozen=True)
class Run:
    """Duration of an extraction and its CPU time by stage; ``others`` are Ray's own processes and the driver."""

    seconds: float
    cpu_s: Mapping[str, float]


def _costs_between(few: Run, many: Run, clips: int) -> Costs:
    """Return the costs per clip: what ``many`` took more than ``few``, whose duration counts as start-up."""
    cpu = {stage: max(many.cpu_s[stage] - few.cpu_s[stage], 0.0) / clips for stage in many.cpu_s}
    return Costs(cpu, {}, driver_s=0.001, start_s=few.seconds)


def _extract(workspace: Path, clips: Path, num: int, workers: int) -> Run:
    """Extract ``num`` clips with the given number of decoding processes."""
    media = sorted(path for path in clips.rglob("*") if path.suffix[1:].lower() in VIDEO_SUFFIXES)
    workspace.mkdir()
    with (workspace / "clips.csv").open("w") as stream:
        rows = csv.writer(stream)
        rows.writerow(["clip_id", "split", "video"])
        rows.writerows([f"{i:06}", "test", str(media[i % len(media)].resolve())] for i in range(num))
    emi_ray, place = [sys.executable, "-m", "emi_ray"], ["-w", str(workspace / "w")]
    table = ["--corpus", "table", "--source", str(workspace / "clips.csv")]
    pools = [f"extraction.stages.{s}.max_actors=1" for s in ("motion", "vision", "audio")]
    settings = [*pools, f"extraction.stages.decode.max_actors={workers}", "extraction.measure=false"]
    subprocess.run([*emi_ray, "init", *place, *table], check=True, stdout=subprocess.DEVNULL)
    what = ["--modalities", "motion,vision,audio"]
    driver = subprocess.Popen([*emi_ray, "extract", *place, *what, *settings], stdout=subprocess.DEVNULL)
    seen = _watch_cpu(driver)
    if driver.returncode:
        raise SystemExit(f"the extraction of {num} clips failed")
    (path,) = (workspace / "w" / "extractions").glob("*.json")
    record = json.loads(path.read_text())
    stages = {
        pid: name
        for name, stage in record["stages"].items()
        for actor in stage["actors"]
        for pid in actor["pids"]
    }
    cpu_s = dict.fromkeys((*record["stages"], "others"), 0.0)
    for pids, seconds in seen.values():
        cpu_s[next((stages[pid] for pid in pids if pid in stages), "others")] += seconds
    return Run(record["seconds"], cpu_s)


def _watch_cpu(driver: "subprocess.Popen[bytes]") -> dict[int, tuple[list[int], float]]:
    """Return, by process of the command, its own and its parents' ids, and its CPU time in s when last seen."""
    over, seen = threading.Event(), dict[int, tuple[list[int], float]]()
    threading.Thread(target=lambda: (driver.wait(), over.set()), daemon=True).start()
    while not over.wait(0.25):
        with suppress(psutil.Error):
            root = psutil.Process(driver.pid)
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    # Decoding runs in a child of its actor: the nearest process that is an actor names the stage.
                    pids = [process.pid, *(parent.pid for parent in process.parents())]
                    seen[process.pid] = pids, times.user + times.system
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--costs", type=Path, default=COSTS, help="YAML or JSON")
    parser.add_argument("--record", action="append", default=[], help="NAME=RECORD: costs on CPUs, measured")
    parser.add_argument("--measure", action="store_true", help="check the model against runs on this machine")
    parser.add_argument("--clips", type=Path, help="folder of clips, for --measure")
    parser.add_argument("--num", type=int, default=240)
    options = parser.parse_args()
    if options.measure:
        if options.num <= FEW:
            parser.error(
                f"--num must be more than {FEW}, the clips of the run that shows the costs of starting"
            )
        measure(options.clips, options.num)
        return
    told = yaml.safe_load(options.costs.read_text())
    measured = {
        name: Costs(cpu, {}, told["driver_s"], told["start_s"])
        for name, cpu in told["cpu_measured_s"].items()
    }
    for name, _, path in (text.partition("=") for text in options.record):
        measured[name] = costs_of(json.loads(Path(path).read_text()), told["start_s"], told["driver_s"])
    print_table(told, measured)


if __name__ == "__main__":
    main()
