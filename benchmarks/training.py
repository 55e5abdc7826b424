"""Time of an epoch: the authors' public script against `emi_ray`, on the same features, in one run.

    python benchmarks/training.py --peer PATH_TO/staged_fusion_training.py

The script is MimicMetrics' src/staged_fusion_training.py (github.com/Dinithipurna/MimicMetrics); it runs
unchanged as a process of its own, on pickles that this benchmark writes. Without it only our side is timed.
Both sides take turns, so that a busy machine slows both. Loading is reported apart: the authors' script reads
its pickles in every epoch, ours reads a feature store once.
"""

import argparse
import csv
import os
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from made_features import PAPER_STEPS, make_clips

from emi_ray.feature_store import ClipFeatures, FeatureStore
from emi_ray.recipe import load_recipe
from emi_ray.schema import EMOTIONS, MODALITIES
from emi_ray.training.clip_data import ClipData, PackedFeatures, read_packed
from emi_ray.training.rows import split_rows
from emi_ray.training.stages import train_recipe
from emi_ray.workspace import Workspace

STAGES = (*MODALITIES, "fusion")
PEER_FOLDERS = {"text": "text", "audio": "audio", "vision": "face", "motion": "motion_seq"}
EPOCH = re.compile(r"^(\S+ \S+) - \[(\w+)\] Epoch (\d+)/\d+ .*Val Pearson(?:\(avg\))?: (-?[\d.]+|nan)")
STAMP = "%Y-%m-%d %H:%M:%S,%f"
BEGUN = re.compile(r"^(\S+ \S+) - (?:--- Stage: (\w+) |Total trainable parameters)")
Epochs = dict[str, list[float]]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    made = make_clips(options.train, options.val, seed=0, steps={**PAPER_STEPS, "audio": options.audio_steps})
    data = made.data
    size = sum(packed.values.nbytes for packed in data.features.values()) / 1e6
    print(
        f"{options.train} train and {options.val} val clips, {size:.0f} MB of features; oracle r {made.oracle:.3f}"
    )
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        data, loading = _through_a_store(data, Path(folder))
        print(f"read once from the feature store: {loading:.1f} s")
        peer_folder = Path(folder) / "peer"
        if options.peer:
            _write_pickles(data, peer_folder)
        peer, ours = defaultdict(list), defaultdict(list)
        processor = {"authors": 0.0, "ours": 0.0}
        for seed in range(options.seeds):
            if options.peer:
                before = _children_s()
                _collect(peer, _run_peer(options, peer_folder, seed))
                processor["authors"] += _children_s() - before
            before = time.process_time()
            _collect(ours, _run_ours(data, options.epochs, seed))
            processor["ours"] += time.process_time() - before
    if not options.peer:
        print("No --peer: the authors' script is not there, so only our side is timed.")
    _show(dict(peer), dict(ours), data, options)
    print("processor seconds of the whole run, start and reading included: ", end="")
    print(", ".join(f"{name} {seconds:.1f}" for name, seconds in processor.items()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, help="the authors' staged_fusion_training.py")
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--val", type=int, default=500)
    parser.add_argument("--audio-steps", type=int, default=250, help="median; the mean is 1.4 times that")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for some GB of files")
    return parser.parse_args()


def _through_a_store(data: ClipData, folder: Path) -> tuple[ClipData, float]:
    """Write the features as extraction would, and read them as training does; the seconds are of reading."""
    import pyarrow as pa

    workspace, seconds, features = Workspace(str(folder / "workspace")), 0.0, {}
    for modality, packed in data.features.items():
        store = FeatureStore(workspace, modality, "made")
        store.create({"extractor": "made"}, packed.feature_dim)
        rows = [
            ClipFeatures(clip_id, packed.of(row), np.zeros(packed.lengths[row]), {})
            for row, clip_id in enumerate(data.clip_ids)
            if packed.present[row]
        ]
        for start in range(0, len(rows), 128):
            store.write(rows[start : start + 128])
        started = time.perf_counter()
        features[modality] = read_packed(store, pa.array(data.clip_ids.tolist()))
        seconds += time.perf_counter() - started
    return data.with_features(features), seconds


def _write_pickles(data: ClipData, folder: Path) -> None:
    for modality, packed in data.features.items():
        place = folder / PEER_FOLDERS[modality]
        place.mkdir(parents=True)
        for row in np.flatnonzero(packed.present):
            with (place / f"{data.clip_ids[row]}.pkl").open("wb") as stream:
                pickle.dump(packed.of(row).astype(np.float32), stream, protocol=5)
    for split, name in (("train", "train_split.csv"), ("val", "valid_split.csv")):
        with (folder / name).open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["Filename", *EMOTIONS])
            for row in np.flatnonzero(data.splits == split):
                writer.writerow([data.clip_ids[row], *data.targets[row]])


def _run_peer(options: argparse.Namespace, folder: Path, seed: int) -> list[tuple[str, float, float]]:
    """Stage, seconds and val Pearson of each epoch, from the time stamps of its log."""
    command = [sys.executable, str(options.peer), "--use_motion_seq", "--device", "cpu", "--seed", str(seed)]
    for option, name in (
        ("face", "face"),
        ("audio", "audio"),
        ("text", "text"),
        ("motion_seq", "motion_seq"),
    ):
        command += [f"--{option}_dir", str(folder / name)]
    command += [
        "--train_csv",
        str(folder / "train_split.csv"),
        "--valid_csv",
        str(folder / "valid_split.csv"),
    ]
    for stage in STAGES:
        command += [f"--{stage}_epochs", str(options.epochs)]
    command += ["--save_dir", str(folder / f"save{seed}"), "--log_dir", str(folder / "logs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    if done.returncode:
        raise SystemExit(f"{options.peer} failed:\n{done.stderr[-2000:]}")
    epochs, last = [], None
    for line in done.stdout.splitlines():
        if begun := BEGUN.match(line):
            last = datetime.strptime(begun[1], STAMP)
        elif (ended := EPOCH.match(line)) and last is not None:
            now = datetime.strptime(ended[1], STAMP)
            epochs.append((ended[2], (now - last).total_seconds(), float(ended[4])))
            last = now
    return epochs


def _run_ours(data: ClipData, epochs: int, seed: int) -> list[tuple[str, float, float]]:
    recipe = load_recipe("paper-faithful", [f"training.epochs={epochs}", "training.bucket_batches=8"])
    trained = train_recipe(recipe, data, split_rows(data), seed=seed)
    return [(entry["stage"], entry["seconds"], entry["val_pearson"]) for entry in trained.history]


def _children_s() -> float:
    """Processor seconds of all processes that have ended: hardly changed by what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _collect(into: dict[str, list[tuple[float, float]]], epochs: list[tuple[str, float, float]]) -> None:
    for stage, seconds, r in epochs:
        into[stage].append((seconds, r))


def _show(peer: dict, ours: dict, data: ClipData, options: argparse.Namespace) -> None:
    print(
        f"\nmean seconds an epoch over {options.epochs} epochs x {options.seeds} seeds, {options.threads} thread(s)"
    )
    print(f"{'stage':<10}{'authors':>9}{'ours':>9}{'ratio':>8}{'two reads':>11}")
    means = {
        name: {s: np.mean([e[0] for e in side[s]]) for s in side} for name, side in (("p", peer), ("o", ours))
    }
    floors = {m: _two_reads(data.features[m]) for m in MODALITIES}
    groups = {**{s: (s,) for s in MODALITIES}, "stage 1": MODALITIES, "fusion": ("fusion",)}
    for name, stages in groups.items():
        own = sum(means["o"][s] for s in stages)
        floor = sum(floors.values()) if name in ("stage 1", "fusion") else floors[stages[0]]
        theirs = sum(means["p"][s] for s in stages) if peer else float("nan")
        print(f"{name:<10}{theirs:>9.3f}{own:>9.3f}{theirs / own:>8.1f}{floor:>11.3f}")
    for name, side in (("authors", peer), ("ours", ours)):
        if side:
            best = [
                max(r for _, r in side["fusion"][i : i + options.epochs])
                for i in range(0, len(side["fusion"]), options.epochs)
            ]
            print(f"best val Pearson of fusion, {name}: {np.mean(best):.4f} ± {np.std(best):.4f}")


def _two_reads(packed: PackedFeatures) -> float:
    """Seconds to read all features twice, at the speed of one thread."""
    values = torch.from_numpy(packed.values).view(torch.int16)
    started = time.perf_counter()
    for _ in range(2):
        values.max()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
