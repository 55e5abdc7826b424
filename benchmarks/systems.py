"""Recipes and variants of them, on made features whose best possible score is known.

    python benchmarks/systems.py f2 second-place ours --seeds 3
    python benchmarks/systems.py f2 f2:objective.memory=256 f2:training.ema_decay=0.98

A variant is a recipe, a colon, and settings joined by commas. Every seed draws new features and new weights.
Features are narrower and shorter than the paper's, so that a run takes seconds; the mix of noise, missing
text, zeros and lengths is the same as in training.py.
"""

import argparse
import time

import numpy as np
import torch
from made_features import make_clips

from emi_ray.metrics import mean_of_known, pearson
from emi_ray.recipe import load_recipe
from emi_ray.training.rows import split_rows
from emi_ray.training.run_files import final_rows, predict_in_units
from emi_ray.training.stages import Hooks, train_recipe

DIMS = {"text": 128, "audio": 96, "vision": 64, "motion": 23}
STEPS = {"text": 1, "audio": 24, "vision": 12, "motion": 12}


class Encoders(dict):
    """Finished stage-1 encoders: variants that differ in fusion alone share them."""

    def has(self, modality, key):
        return (modality, key) in self

    def load(self, modality, key):
        return self[modality, key]

    def save(self, modality, key, outcome):
        self[modality, key] = outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="+", help="recipe, or recipe:key=value,key=value")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--val", type=int, default=750)
    parser.add_argument("--all", nargs="*", default=[], help="settings of every variant")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = [make_clips(options.train, options.val, seed, DIMS, STEPS) for seed in range(options.seeds)]
    print(f"oracle {np.mean([one.oracle for one in made]):.4f}", flush=True)
    hooks = Hooks(encoder_cache=Encoders())
    for variant in options.variants:
        name, _, settings = variant.partition(":")
        chosen = [*options.all, *(setting for setting in settings.split(",") if setting)]
        recipe = load_recipe(name, chosen, any_features=True)
        started, scores = time.perf_counter(), []
        for seed, one in enumerate(made):
            rows = split_rows(one.data)
            trained = train_recipe(recipe, one.data, rows, seed=seed, hooks=hooks)
            val = final_rows(recipe, one.data, rows).val
            predictions = predict_in_units(trained.model, one.data, val)
            scores.append(mean_of_known(pearson(predictions, one.data.targets[val])))
        seconds = (time.perf_counter() - started) / options.seeds
        each = " ".join(f"{score:.4f}" for score in scores)
        print(
            f"{np.mean(scores):.4f} ± {np.std(scores):.4f}  ({each})  {seconds:5.0f} s  {variant}", flush=True
        )


if __name__ == "__main__":
    main()
