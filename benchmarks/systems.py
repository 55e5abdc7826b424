"""Recipes and variants of them, on made features whose best possible score is known.

    python benchmarks/systems.py f2 second-place ours --draws 3 --seeds 3
    python benchmarks/systems.py f2 f2@4 f2:objective.binomial=0.5 f2:objective.memory=256

A variant is a recipe, a colon, and settings joined by commas; ``@4`` averages four seeds of it. Every draw makes new
features, people and labels, every seed new weights. The first variant is what the others are compared with: the
difference on the same clips, with its 95 % interval over draws, people and seeds. Features are narrower and shorter
than the paper's, so that a run takes seconds; noise, missing text, zeros and lengths are as in training.py.
"""

import argparse
import time
from functools import cache

import numpy as np
import torch
from made_features import Made, make_clips

from emi_ray.metrics import mean_of_known, pearson
from emi_ray.recipe import load_recipe
from emi_ray.training.rows import split_rows
from emi_ray.training.run_files import final_rows, predict_in_units
from emi_ray.training.stages import Hooks, train_recipe

DIMS = {"text": 128, "audio": 96, "vision": 64, "motion": 23}
STEPS = {"text": 1, "audio": 24, "vision": 12, "motion": 12}
NUM_RESAMPLES = 400

BySeed = list[list[np.ndarray]]
"""What a variant predicts of the val clips, (N, L), by draw and seed."""


class Encoders(dict):
    """Finished stage-1 encoders: variants that differ in fusion alone share them."""

    def has(self, modality, key):
        return (modality, key) in self

    def load(self, modality, key):
        return self[modality, key]

    def save(self, modality, key, outcome):
        self[modality, key] = outcome


class Bench:
    """Made features of each draw, and what trained systems predict of their val clips."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        sizes = (options.train, options.val)
        self.made: list[Made] = [make_clips(*sizes, draw, DIMS, STEPS) for draw in range(options.draws)]
        self.rows = [split_rows(one.data) for one in self.made]
        self.hooks = Hooks(encoder_cache=Encoders())
        self.predict = cache(self._predict)

    def predictions(self, variant: str) -> BySeed:
        """The members of an ensemble are seeds that no other ensemble of the draw has."""
        settings, _, members = variant.partition("@")
        size = int(members or 1)

        def mean(draw: int, seed: int) -> np.ndarray:
            return np.mean([self.predict(settings, draw, seed * size + k) for k in range(size)], axis=0)

        return [
            [mean(draw, seed) for seed in range(self.options.seeds)] for draw in range(self.options.draws)
        ]

    def scores(self, predictions: BySeed) -> np.ndarray:
        """(draws, seeds) val Pearson, the mean over labels."""
        truths = [made.data.targets[rows.val] for made, rows in zip(self.made, self.rows, strict=True)]
        pairs = zip(predictions, truths, strict=True)
        return np.array([[mean_of_known(pearson(one, truth)) for one in draw] for draw, truth in pairs])

    def interval(self, first: BySeed, second: BySeed) -> tuple[float, float]:
        """Of the difference in score: draws, their people and the seeds of each side drawn anew."""
        random, found = np.random.default_rng(0), []
        for _ in range(NUM_RESAMPLES):
            gains = []
            for draw in random.integers(self.options.draws, size=self.options.draws):
                clips = self._people_anew(draw, random)
                truth = self.made[draw].data.targets[self.rows[draw].val][clips]
                sides = [side[draw][random.integers(self.options.seeds)][clips] for side in (first, second)]
                one, other = (mean_of_known(pearson(side, truth)) for side in sides)
                gains.append(one - other)
            found.append(np.mean(gains))
        low, high = np.quantile(found, [0.025, 0.975])
        return float(low), float(high)

    def _predict(self, settings: str, draw: int, seed: int) -> np.ndarray:
        name, _, changes = settings.partition(":")
        chosen = [*self.options.all, *(change for change in changes.split(",") if change)]
        recipe = load_recipe(name, chosen, any_features=True)
        data, rows = self.made[draw].data, self.rows[draw]
        trained = train_recipe(recipe, data, rows, seed=seed, hooks=self.hooks)
        val = final_rows(recipe, data, rows).val
        assert len(val) == len(rows.val), "a system is scored on fewer clips than the others"
        return predict_in_units(trained.model, data, val)

    def _people_anew(self, draw: int, random: np.random.Generator) -> np.ndarray:
        groups = self.made[draw].data.groups[self.rows[draw].val].astype(str)
        names, person = np.unique(groups, return_inverse=True)
        clips = [np.flatnonzero(person == number) for number in range(len(names))]
        return np.concatenate([clips[number] for number in random.integers(len(names), size=len(names))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "variants", nargs="+", help="recipe, recipe:key=value,key=value, or either with @members"
    )
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--val", type=int, default=750)
    parser.add_argument("--all", nargs="*", default=[], help="settings of every variant")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options)
    print(f"oracle {np.mean([one.oracle for one in bench.made]):.4f}", flush=True)
    first: BySeed | None = None
    for variant in options.variants:
        started = time.perf_counter()
        predictions = bench.predictions(variant)
        scores = bench.scores(predictions)
        line = f"{scores.mean():.4f} ± {scores.std(ddof=min(1, scores.size - 1)):.4f}"
        if first is None:
            first = predictions
            line += " " * 27
        else:
            gain = scores.mean() - bench.scores(first).mean()
            low, high = bench.interval(predictions, first)
            line += f"  {gain:+.4f} [{low:+.4f}, {high:+.4f}]"
        seconds = (time.perf_counter() - started) / scores.size
        each = " | ".join(" ".join(f"{score:.3f}" for score in of_draw) for of_draw in scores)
        print(f"{line}  ({each})  {seconds:5.0f} s  {variant}", flush=True)


if __name__ == "__main__":
    main()
