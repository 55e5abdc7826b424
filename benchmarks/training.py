"""Compare the time of an epoch in the authors' public script and in `emi_ray`, on the same features, in one run.

    python benchmarks/training.py --peer PATH_TO/staged_fusion_training.py

The script is MimicMetrics' src/staged_fusion_training.py (github.com/Dinithipurna/MimicMetrics); it runs unchanged
as a process of its own, on pickles that this benchmark writes. Without it only our side is timed. Both sides take
turns, so that a busy machine slows both. Timed is `paper-faithful`, which computes what the script computes; `f2`
is trained beside it for its score alone, as many epochs at most. Loading is reported apart: the authors' script
reads its pickles in every epoch, ours reads a feature store once.
"""

import argparse
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from authors_script import AuthorsScript, Epoch
from made_features import PAPER_STEPS, make_clips

from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import MODALITIES
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.data.clip_data import ClipData, PackedFeatures
from emi_ray.training.data.packed_reading import read_packed
from emi_ray.training.data.split_rows import Rows, split_rows
from emi_ray.training.stages.train_recipe import train_recipe
from emi_ray.workspace import Workspace

STAGES = (*MODALITIES, "fusion")


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
        print(f"read once from the feature store: {loading:.1f} s; the authors' script reads in every epoch")
        rows = split_rows(data)
        script = AuthorsScript(options.peer, Path(folder) / "peer", MODALITIES) if options.peer else None
        if script:
            script.write_inputs(data, rows)
        peer, ours = defaultdict(list), defaultdict(list)
        best: dict[str, list[float]] = {"authors": [], "paper-faithful": [], "f2": []}
        processor = {"authors": 0.0, "ours": 0.0}
        for seed in range(options.seeds):
            if script:
                before = _children_s()
                flags = {"seed": seed, "save_dir": script.folder / f"saved{seed}"}
                found = script.run(data, dict.fromkeys(STAGES, options.epochs), flags)
                _collect(peer, found)
                best["authors"].append(_best(found))
                processor["authors"] += _children_s() - before
            before = time.process_time()
            found = _run_ours("paper-faithful", data, rows, options.epochs, seed)
            processor["ours"] += time.process_time() - before
            _collect(ours, found)
            best["paper-faithful"].append(_best(found))
            best["f2"].append(_best(_run_ours("f2", data, rows, options.epochs, seed)))
    if not options.peer:
        print("No --peer: the authors' script is not there, so only our side is timed.")
    _show(dict(peer), dict(ours), data, options)
    _show_scores(best)
    if script:
        theirs, own = (sum(e[0] for stage in side.values() for e in stage) for side in (peer, ours))
        own += loading * options.seeds
        print(
            f"all epochs, our reading once a seed included: {theirs:.0f} s / {own:.0f} s = {theirs / own:.1f}x"
        )
    print(
        "processor seconds, of the authors' with their start and reading, of ours in training alone: ", end=""
    )
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
    """Write the features as extraction does and read them as training does; return the seconds of reading, too."""
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


def _run_ours(name: str, data: ClipData, rows: Rows, epochs: int, seed: int) -> list[Epoch]:
    recipe = load_recipe(name, [f"training.epochs={epochs}", f"encoders.motion.epochs={epochs}"])
    trained = train_recipe(recipe, data, rows, seed=seed)
    return [Epoch(entry["stage"], entry["seconds"], entry["val_pearson"]) for entry in trained.history]


def _best(epochs: list[Epoch]) -> float:
    """Return the best val Pearson of the fusion."""
    return max(epoch.val_pearson for epoch in epochs if epoch.stage == "fusion")


def _children_s() -> float:
    """Return the processor seconds of all processes that have ended, which other load hardly changes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _collect(into: dict[str, list[tuple[float, float]]], epochs: list[Epoch]) -> None:
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


def _show_scores(sides: Mapping[str, list[float]]) -> None:
    for name, best in sides.items():
        if best:
            spread = np.std(best, ddof=int(len(best) > 1))
            each = " ".join(f"{value:.4f}" for value in best)
            print(f"best val Pearson of fusion, {name}: {np.mean(best):.4f} ± {spread:.4f} (by seed: {each})")


def _two_reads(packed: PackedFeatures) -> float:
    """Return the seconds to read all features twice with one thread."""
    values = torch.from_numpy(packed.values).view(torch.int16)
    started = time.perf_counter()
    for _ in range(2):
        values.max()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
