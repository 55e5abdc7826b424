"""The batch script under stubs of Slurm and Ray that keep a log: each step of srun is processes here."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy/slurm.sbatch"
STUBS = {
    # srun OPTIONS COMMAND: as many processes as --ntasks says, each with its options in the log.
    "srun": r"""
tasks=1; options=
while [ "${1#--}" != "$1" ]; do
    case $1 in --ntasks=*) tasks=${1#*=} ;; esac
    options="$options $1"; shift
done
pids=
for _ in $(seq "$tasks"); do echo "srun$options: $*" >>"$LOG"; "$@" & pids="$pids $!"; done
trap 'kill $pids 2>/dev/null' TERM
code=0
for pid in $pids; do wait "$pid" || code=$?; done
exit $code
""",
    "scontrol": r"""
case $1 in
    show) for name in $(echo "$3" | tr , ' '); do echo "$name"; sleep 0.05; done ;;
    requeue) echo "requeue $2" >>"$LOG" ;;
esac
""",
    "hostname": "echo 10.0.0.7 172.17.0.1",
    "ray": r"""
if [ "$1" = start ]; then
    [ -z "${HEAD_FAILS:-}" ] || exit 1
    echo "auth $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}" >>"$LOG"
    exec sleep 60
fi
""",
    "emi-ray": r"""
echo "verb $* at $RAY_ADDRESS, $EMI_RAY_WAIT_FOR_NODES nodes" >>"$LOG"
sleep 1
case $1 in fail) exit 3 ;; long) exec sleep 60 ;; esac
""",
}


@pytest.fixture
def slurm(tmp_path):
    """Runs the script in an allocation; ``(process, log)``."""
    stubs, log = tmp_path / "bin", tmp_path / "log"
    stubs.mkdir()
    for name, body in STUBS.items():
        (stubs / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (stubs / name).chmod(0o755)

    def submit(*verb: str, nodes: int = 1, **environment: str) -> tuple[subprocess.Popen, Path]:
        allocation = {
            "PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}",
            "LOG": str(log),
            "SLURM_JOB_ID": "4321",
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_JOB_NODELIST": ",".join(f"n{index}" for index in range(nodes)),
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_GPUS_ON_NODE": "2",
            **environment,
        }
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *verb], env=allocation, cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        return process, log

    return submit


def test_three_nodes_make_one_cluster_that_runs_the_verb_once(slurm):
    process, log = slurm("extract", "-w", "/shared/my work", nodes=3)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    lines = log.read_text().splitlines()
    heads = [line for line in lines if "ray start --head" in line]
    workers = [line for line in lines if "ray start --address=10.0.0.7:21926" in line]
    assert len(heads) == 1
    assert len(workers) == 2
    assert "--nodelist=n0" in heads[0]
    assert "--node-ip-address=10.0.0.7 --port=21926" in heads[0]
    assert all("--exclude=n0" in line and "--num-cpus=16 --num-gpus=2" in line for line in workers)
    assert lines.count("verb extract -w /shared/my work at 10.0.0.7:21926, 3 nodes") == 1
    assert lines.count("auth token 64") == 3


def test_one_node_needs_no_workers_and_the_verbs_exit_code_is_the_jobs(slurm):
    process, log = slurm("fail")
    process.communicate(timeout=30)
    assert process.returncode == 3
    assert "--address=" not in log.read_text().replace("--address 10", "")


def test_a_job_that_slurm_ends_is_queued_again(slurm):
    process, log = slurm("long")
    while not log.exists() or "verb long" not in log.read_text():
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "queued again" in errors
    assert "requeue 4321" in log.read_text()


def test_a_head_that_does_not_start_ends_the_job(slurm):
    process, log = slurm("extract", HEAD_FAILS="1")
    (log.parent / "bin" / "ray").write_text("#!/bin/sh\nexit 1\n")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Ray's head did not start" in errors
    assert "verb" not in log.read_text()


def test_nothing_to_run_is_said(slurm):
    process, _ = slurm()
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 2
    assert "What to run is missing" in errors
