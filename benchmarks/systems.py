"""Compare recipes and their variants on simulated features whose best possible score is known.

    python benchmarks/systems.py f2 second-place ours --draws 3 --seeds 3
    python benchmarks/systems.py f2 f2@4 f2:objective.binomial=0.5 f2:objective.memory=256 --keep FOLDER

A variant is a recipe, a colon, and settings joined by commas; ``@4`` averages four seeds of it. Every draw makes new
features, people and labels, every seed new weights; ensembles share no seed. An inner part of train chooses the
epochs of all systems alike. What is compared is the score of the same clips of val, which decide nothing.

The difference to a system is given with two 95 % intervals: one over draws, people and seeds drawn anew, and
Student's over the draws, which are few. Each variant is compared with the first one that has as many members.

Predictions are kept in ``--keep``, one file for each draw, seed and system: a run that was cut off goes on where it
was, and ``--only-table`` shows what there is. Features and, with ``--width``, layers are narrower than the paper's,
so that a run takes seconds.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from made_features import Made, make_clips
from scipy import stats

from emi_ray.metrics import mean_of_known, pearson
from emi_ray.recipe.loading import load_recipe
from emi_ray.recipe.schema import Recipe
from emi_ray.training.data.split_rows import split_rows
from emi_ray.training.run_files import final_rows, predict_rows
from emi_ray.training.stages.runner import Hooks
from emi_ray.training.stages.train_recipe import train_recipe

DIMS = {"text": 64, "audio": 48, "vision": 32, "motion": 23}
STEPS = {"text": 1, "audio": 12, "vision": 6, "motion": 6}
STOPPING = ("training.stop_on=inner", "training.inner_share=0.2")
NUM_RESAMPLES = 1000
RESULTS = "results.json"

BySeed = list[list[np.ndarray]]
"""What a variant predicts of the val clips, (N, L), by draw and seed."""


class Variant(NamedTuple):
    """A recipe with changed settings, and the number of seeds that are averaged."""

    settings: str
    members: int

    @classmethod
    def read(cls, text: str) -> "Variant":
        settings, _, members = text.partition("@")
        return cls(settings, int(members or 1))

    def seeds(self, seed: int) -> list[int]:
        return [seed * self.members + k for k in range(self.members)]


class Encoders(dict):
    """Finished stage-1 encoders, shared by variants that differ in fusion alone."""

    def has(self, modality, key):
        return (modality, key) in self

    def load(self, modality, key):
        return self[modality, key]

    def save(self, modality, key, outcome):
        self[modality, key] = outcome


@dataclass(frozen=True)
class Outcome:
    """One trained system, stored beside its predictions in ``results.json``."""

    system: str
    draw: int
    seed: int
    val_pearson: float
    best_epochs: dict[str, int]
    most_epochs: int
    seconds: float


class Bench:
    """Simulated features of each draw, and the predictions of trained systems for their val clips."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        sizes = (options.train, options.val)
        self.made: list[Made] = [make_clips(*sizes, draw, DIMS, STEPS) for draw in range(options.draws)]
        self.rows = [split_rows(one.data) for one in self.made]
        self.hooks = Hooks(encoder_cache=Encoders())
        self.kept = Path(options.keep)
        self.kept.mkdir(parents=True, exist_ok=True)
        results = self.kept / RESULTS
        self.outcomes: dict[str, dict] = json.loads(results.read_text()) if results.exists() else {}

    def train(self, variants: list[Variant]) -> None:
        """Train every system without a stored result: the first seed of each variant on all draws, then the next."""
        for seed in range(self.options.seeds):
            for variant in variants:
                for draw in range(self.options.draws):
                    for member in variant.seeds(seed):
                        if not self._path(variant.settings, draw, member).exists():
                            self._train(variant.settings, draw, member)

    def predictions(self, variant: Variant) -> BySeed | None:
        """Return predictions by draw and seed, for the seeds that are finished on all draws; None where there are
        none.
        """
        draws, seeds = range(self.options.draws), range(self.options.seeds)
        done = [seed for seed in seeds if all(self._is_there(variant, draw, seed) for draw in draws)]
        return [[self._mean(variant, draw, seed) for seed in done] for draw in draws] if done else None

    def scores(self, predictions: BySeed) -> np.ndarray:
        """Return the val Pearson (draws, seeds), averaged over labels."""
        truths = [made.data.targets[rows.val] for made, rows in zip(self.made, self.rows, strict=True)]
        pairs = zip(predictions, truths, strict=True)
        return np.array([[mean_of_known(pearson(one, truth)) for one in draw] for draw, truth in pairs])

    def interval(self, first: BySeed, second: BySeed) -> tuple[float, float]:
        """Return the interval of the difference in score; draws, their people and the seeds of each side are
        resampled.
        """
        random, found = np.random.default_rng(0), []
        for _ in range(NUM_RESAMPLES):
            gains = []
            for draw in random.integers(len(first), size=len(first)):
                clips = self._people_anew(draw, random)
                truth = self.made[draw].data.targets[self.rows[draw].val][clips]
                sides = [_seeds_anew(side[draw], clips, truth, random) for side in (first, second)]
                gains.append(sides[0] - sides[1])
            found.append(np.mean(gains))
        low, high = np.quantile(found, [0.025, 0.975])
        return float(low), float(high)

    def _is_there(self, variant: Variant, draw: int, seed: int) -> bool:
        return all(self._path(variant.settings, draw, member).exists() for member in variant.seeds(seed))

    def _mean(self, variant: Variant, draw: int, seed: int) -> np.ndarray:
        paths = [self._path(variant.settings, draw, member) for member in variant.seeds(seed)]
        return np.mean([np.load(path) for path in paths], axis=0)

    def _train(self, settings: str, draw: int, seed: int) -> None:
        started = time.process_time()
        recipe = self._recipe(settings)
        data, rows = self.made[draw].data, self.rows[draw]
        trained = train_recipe(recipe, data, rows, seed=seed, hooks=self.hooks)
        val = final_rows(recipe, data, rows).val
        assert len(val) == len(rows.val), "a system is scored on fewer clips than the others"
        predicted = predict_rows(trained.model, data, val)
        path = self._path(settings, draw, seed)
        outcome = Outcome(
            settings,
            draw,
            seed,
            mean_of_known(pearson(predicted, data.targets[val])),
            {stage: one.best_epoch for stage, one in trained.results.items()},
            recipe.training.epochs,
            round(time.process_time() - started, 2),
        )
        self.outcomes[path.stem] = asdict(outcome)
        _write_whole(self.kept / RESULTS, json.dumps(self.outcomes, indent=1).encode())
        with _beside(path).open("wb") as file:
            np.save(file, predicted)
        _beside(path).replace(path)

    def _path(self, settings: str, draw: int, seed: int) -> Path:
        sizes = [self.options.train, self.options.val, DIMS, STEPS]
        known_by = json.dumps([self._recipe(settings).model_dump(mode="json"), sizes, draw, seed])
        return self.kept / f"{hashlib.blake2b(known_by.encode(), digest_size=8).hexdigest()}.npy"

    def _recipe(self, settings: str) -> Recipe:
        """Return the recipe with the settings that all variants share, as far as this recipe has them."""
        name, _, changes = settings.partition(":")
        plain = load_recipe(name, any_features=True)
        late = plain.fusion is not None and plain.fusion.type == "late"
        common = [*self.options.all, *(() if late else STOPPING), *_widths(plain, self.options.width)]
        return load_recipe(name, [*common, *filter(None, changes.split(","))], any_features=True)

    def _people_anew(self, draw: int, random: np.random.Generator) -> np.ndarray:
        groups = self.made[draw].data.groups[self.rows[draw].val].astype(str)
        names, person = np.unique(groups, return_inverse=True)
        clips = [np.flatnonzero(person == number) for number in range(len(names))]
        return np.concatenate([clips[number] for number in random.integers(len(names), size=len(names))])


def _seeds_anew(of_draw: list[np.ndarray], clips: np.ndarray, truth: np.ndarray, random) -> float:
    chosen = random.integers(len(of_draw), size=len(of_draw))
    return float(np.mean([mean_of_known(pearson(of_draw[seed][clips], truth)) for seed in chosen]))


def _widths(recipe: Recipe, width: int | None) -> Iterator[str]:
    """Layers at most so wide."""
    if width is None:
        return
    for name, encoder in recipe.encoders.items():
        if encoder.type != "steps" and encoder.projection != "none":
            yield f"encoders.{name}.hidden={min(width, encoder.hidden)}"
    if recipe.fusion is not None and recipe.fusion.type != "late":
        yield f"fusion.hidden={min(width, recipe.fusion.hidden)}"


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.new")


def _write_whole(path: Path, content: bytes) -> None:
    _beside(path).write_bytes(content)
    _beside(path).replace(path)


def print_table(bench: Bench, names: list[str]) -> None:
    """Print one line per variant: mean ± sd over draws and seeds, and the difference to the first with as many
    members.
    """
    firsts: dict[int, BySeed] = {}
    for name in names:
        variant = Variant.read(name)
        predictions = bench.predictions(variant)
        if predictions is None:
            print(f"{'not yet':27}{name}")
            continue
        scores = bench.scores(predictions)
        line = f"{scores.mean():.4f} ± {scores.std(ddof=min(1, scores.size - 1)):.4f}"
        if variant.members in firsts:
            line += _difference(bench, predictions, firsts[variant.members])
        firsts.setdefault(variant.members, predictions)
        each = " | ".join(" ".join(f"{score:.3f}" for score in of_draw) for of_draw in scores)
        print(f"{line:<76}  ({each})  {name}", flush=True)


def _difference(bench: Bench, predictions: BySeed, first: BySeed) -> str:
    gains = bench.scores(predictions).mean(axis=1) - bench.scores(first).mean(axis=1)
    low, high = bench.interval(predictions, first)
    text = f"  {gains.mean():+.4f} [{low:+.4f}, {high:+.4f}]"
    if len(gains) < 2:
        return text
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return f"{text} t [{gains.mean() - half:+.4f}, {gains.mean() + half:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "variants", nargs="+", help="recipe, recipe:key=value,key=value, or either with @members"
    )
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--val", type=int, default=500)
    parser.add_argument("--width", type=int, help="of layers, at most; the recipes' own without it")
    parser.add_argument("--all", nargs="*", default=[], help="settings of every variant")
    parser.add_argument("--keep", default="systems", help="folder of what is finished")
    parser.add_argument("--only-table", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options)
    if not options.only_table:
        bench.train([Variant.read(name) for name in options.variants])
    print(f"oracle {np.mean([one.oracle for one in bench.made]):.4f}", flush=True)
    print_table(bench, options.variants)


if __name__ == "__main__":
    main()
