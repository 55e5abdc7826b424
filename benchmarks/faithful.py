"""Compare the scores of `paper-faithful` with those of the authors' public script, by stage, over many seeds.

    python benchmarks/faithful.py --peer PATH_TO/staged_fusion_training.py --seeds 10 --epochs 20 --to faithful.jsonl

Both sides train on the same features with the same settings; each draws its own weights, batches and dropout. For
every stage the table shows the mean best val Pearson of each side, and the mean paired difference with its 95 %
interval (Student's t over seeds). `--plateau never` gives both sides a learning rate that is not lowered; the default
is the script's own rule, which lowers it after three epochs without progress. The results of each seed are appended
to a file, and a repeated command continues there. `parity.py` compares the arithmetic where nothing is random.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from authors_script import AuthorsScript, Epoch
from made_features import PAPER_STEPS, make_clips
from scipy.stats import t as student

from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import MODALITIES
from emi_ray.training.data.split_rows import split_rows
from emi_ray.training.stages.train_recipe import train_recipe

STAGES = (*MODALITIES, "fusion")
PATIENCE = {"script": 10, "never": 90}
"""The script's patience; its scheduler waits for a third of that, and at least three epochs."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    data = make_clips(
        options.train, options.val, seed=0, steps={**PAPER_STEPS, "audio": options.audio_steps}
    ).data
    rows, done = split_rows(data), _read(options.to)
    with tempfile.TemporaryDirectory() as folder:
        script = AuthorsScript(options.peer, Path(folder), MODALITIES)
        script.write_inputs(data, rows)
        for seed in range(options.seeds):
            if seed in done:
                continue
            patience = PATIENCE[options.plateau]
            flags = {"seed": seed, "save_dir": script.folder / f"saved{seed}", "patience": patience}
            found = {"script": _best(script.run(data, dict.fromkeys(STAGES, options.epochs), flags))}
            for name in options.recipes:
                recipe = load_recipe(
                    name,
                    [
                        f"training.epochs={options.epochs}",
                        f"encoders.motion.epochs={options.epochs}",
                        f"training.patience={patience}",
                        f"training.plateau_patience={max(3, patience // 3)}",
                        "training.stop_on=val",
                    ],
                )
                history = train_recipe(recipe, data, rows, seed=seed).history
                found[name] = _best(Epoch(e["stage"], e["seconds"], e["val_pearson"]) for e in history)
            done[seed] = found
            with options.to.open("a") as stream:
                stream.write(json.dumps({"seed": seed, **found}) + "\n")
            print(
                f"seed {seed}: " + ", ".join(f"{name} {best['fusion']:.4f}" for name, best in found.items())
            )
    for name in options.recipes:
        _show(name, [done[seed] for seed in sorted(done)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True, help="The authors' staged_fusion_training.py.")
    parser.add_argument("--to", type=Path, required=True, help="A file that keeps the results of each seed.")
    parser.add_argument("--recipes", nargs="+", default=["paper-faithful", "f2"])
    parser.add_argument("--plateau", choices=[*PATIENCE], default="script")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20, help="Epochs of each stage.")
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--val", type=int, default=500)
    parser.add_argument("--audio-steps", type=int, default=PAPER_STEPS["audio"], help="Their median.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of our side.")
    return parser.parse_args()


def _read(path: Path) -> dict[int, dict[str, dict[str, float]]]:
    lines = path.read_text().splitlines() if path.exists() else []
    seeds = [json.loads(line) for line in lines]
    return {found.pop("seed"): found for found in seeds}


def _best(epochs: Iterable[Epoch]) -> dict[str, float]:
    """Return the best val Pearson of each stage, under one name for both sides."""
    best: dict[str, float] = {}
    for epoch in epochs:
        stage = "motion" if epoch.stage.startswith("motion") else epoch.stage
        best[stage] = max(best.get(stage, -1.0), epoch.val_pearson)
    return best


def _show(name: str, seeds: list[Mapping[str, Mapping[str, float]]]) -> None:
    print(f"\n{name}, best val Pearson over {len(seeds)} seeds: mean ± sd")
    print(f"{'stage':<8}{'script':>18}{'ours':>18}   ours - script, 95 % interval")
    for stage in STAGES:
        theirs = np.array([found["script"][stage] for found in seeds])
        ours = np.array([found[name][stage] for found in seeds])
        gap = ours - theirs
        half = (
            student.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else np.nan
        )
        both = "".join(f"{side.mean():>10.4f} ± {side.std(ddof=1):.4f}" for side in (theirs, ours))
        print(f"{stage:<8}{both}   {gap.mean():+.4f} [{gap.mean() - half:+.4f}, {gap.mean() + half:+.4f}]")


if __name__ == "__main__":
    main()
