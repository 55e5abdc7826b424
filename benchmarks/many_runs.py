"""Time whole `emi-ray train` commands: one run, many runs at once, and the authors' public script.

    python benchmarks/many_runs.py --recipes text f2 --seeds 8 --epochs 1 20
    python benchmarks/many_runs.py --recipes f2 --seeds 1 --epochs 5 20 --peer PATH_TO/staged_fusion_training.py
    python benchmarks/many_runs.py --recipes f2 --seeds 8 --epochs 1 --fake-gpus 4

Timed is what a user waits for, start-up included: from typing the command until the first line on the screen, until
the first score, and until the end. Every command runs in a workspace that holds the features and nothing else. The
authors' script (github.com/Dinithipurna/MimicMetrics, src/staged_fusion_training.py) runs unchanged, with its own
defaults for threads. Commands of both sides take turns.
"""

import argparse
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from authors_script import AuthorsScript
from made_features import PAPER_STEPS, make_clips
from made_workspace import write_workspace

from emi_ray.schema import MODALITIES
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import split_rows

FIRST_SEED = 42


@dataclass(frozen=True)
class Times:
    """Seconds from the start of a command."""

    first_line: float
    first_score: float
    end: float


def main() -> None:
    options = _options()
    made = make_clips(options.train, options.val, seed=0, steps={**PAPER_STEPS, "audio": options.audio_steps})
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch) / "work"
        write_workspace(made.data, folder)
        script = AuthorsScript(options.peer, Path(scratch) / "peer", MODALITIES) if options.peer else None
        if script:
            script.write_inputs(made.data, split_rows(made.data))
        # The commands need the memory, so that of the paper's features (10.7 GB) is given back.
        first = {
            m: replace(packed, values=packed.values[:1].copy()) for m, packed in made.data.features.items()
        }
        data = made.data.with_features(first)
        del made
        with _cluster(options.fake_gpus) as cluster:
            for recipe in options.recipes:
                for epochs in options.epochs:
                    _compare(recipe, epochs, options, folder, cluster)
                    if script:
                        _against(script, data, recipe, epochs, folder)


@contextmanager
def _cluster(fake_gpus: int | None) -> Iterator[str | None]:
    """Give the address of a cluster of one node that claims to have GPUs, or None where none are wanted."""
    if fake_gpus is None:
        yield None
        return
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 4 * fake_gpus, "num_gpus": fake_gpus}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=["text", "f2"])
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 20], help="Epochs of each stage.")
    parser.add_argument("--seeds", type=int, default=8, help="Runs of the second command.")
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--val", type=int, default=500)
    parser.add_argument("--audio-steps", type=int, default=PAPER_STEPS["audio"])
    parser.add_argument("--fake-gpus", type=int, help="GPUs that Ray is told of; the models run on the CPU.")
    parser.add_argument("--peer", type=Path, help="The authors' staged_fusion_training.py.")
    parser.add_argument("--scratch", help="Folder for temporary files.")
    return parser.parse_args()


def _compare(
    recipe: str, epochs: int, options: argparse.Namespace, folder: Path, cluster: str | None
) -> None:
    """Time one seed and then many seeds in one workspace, whose runs are deleted in between."""
    one = _train(recipe, 1, epochs, folder, cluster)
    print(
        f"{recipe}, {epochs} epochs, 1 run: {one.end:.1f} s; first line after {one.first_line:.1f} s, first score "
        f"after {one.first_score:.1f} s"
    )
    if options.seeds > 1:
        many = _train(recipe, options.seeds, epochs, folder, cluster)
        print(
            f"{recipe}, {epochs} epochs, {options.seeds} runs: {many.end:.1f} s = {many.end / one.end:.2f}x one run"
        )
        _show_places(recipe, folder)


def _train(recipe: str, seeds: int, epochs: int, folder: Path, cluster: str | None = None) -> Times:
    for name in ("runs", "encoders", "checkpoints"):
        shutil.rmtree(folder / name, ignore_errors=True)
    command = [Path(sys.executable).with_name("emi-ray"), "train", "-w", folder, recipe, "--any-features"]
    command += [f"--seed={FIRST_SEED + index}" for index in range(seeds)]
    return _timed([*map(str, command), f"training.epochs={epochs}"], cluster)


def _timed(command: Sequence[str], cluster: str | None = None) -> Times:
    """Run a command in a terminal of its own and record when it writes."""
    environment = {**os.environ, "COLUMNS": "200", **({"RAY_ADDRESS": cluster} if cluster else {})}
    ours, theirs = pty.openpty()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    first_line = first_score = float("nan")
    output = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        now = time.perf_counter() - started
        if not output:
            first_line = now
        output += read
        if first_score != first_score and b"val r" in output:
            first_score = now
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed:\n{output.decode(errors='replace')[-3000:]}")
    return Times(first_line, first_score, time.perf_counter() - started)


def _show_places(recipe: str, folder: Path) -> None:
    """Print on which GPUs the runs were, and how many ran at the same time."""
    metrics = [
        json.loads(path.read_text()) for path in sorted((folder / "runs" / recipe).glob("*/metrics.json"))
    ]
    gpus = sorted({gpu for run in metrics for gpu in run["gpus"]})
    if gpus:
        counts = {gpu: sum(gpu in run["gpus"] for run in metrics) for gpu in gpus}
        print(f"  runs by GPU: {counts}")


def _against(script: AuthorsScript, data: ClipData, recipe: str, epochs: int, folder: Path) -> None:
    """Time the authors' command between two of ours."""
    before = _train(recipe, 1, epochs, folder).end
    started = time.perf_counter()
    saved = script.folder / f"saved-{recipe}-{epochs}"
    script.run(data, dict.fromkeys((*MODALITIES, "fusion"), epochs), {"seed": FIRST_SEED, "save_dir": saved})
    theirs = time.perf_counter() - started
    after = _train(recipe, 1, epochs, folder).end
    ours = (before + after) / 2
    print(
        f"{recipe}, {epochs} epochs, authors' script: {theirs:.1f} s, ours {before:.1f} and {after:.1f} s: "
        f"{theirs / ours:.2f}x"
    )


if __name__ == "__main__":
    main()
