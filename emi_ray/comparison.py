"""Comparison of trained systems on the same clips, from the stored predictions of their runs.

A system is a recipe with all its seeds, or a single run. Only clips that all systems were scored on count. Otherwise
a system could win because its clips are easier, or because it skipped the difficult ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from emi_ray.corpus.splits import GROUP
from emi_ray.errors import UserError, choices
from emi_ray.resampling import Difference, codes_of, holm, sample_scores, score_difference
from emi_ray.results.predictions import ScoredPredictions, read_scored_predictions
from emi_ray.results.runs import METRICS, run_folder
from emi_ray.wording import plural
from emi_ray.workspace import CLIPS, Workspace

FEWEST_CLIPS = 3
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class System:
    """A recipe with several seeds, or a single run: its name, and its predictions by seed."""

    name: str
    seeds: Mapping[str, ScoredPredictions]


@dataclass(frozen=True)
class Pair:
    """Score of the first system minus score of the second, for each label and for the mean over labels.

    The p-values are corrected for multiple comparisons (Holm 1979), because among many comparisons some differences
    look significant by chance: that of the mean for the number of pairs, those of labels for pairs times labels.
    """

    first: str
    second: str
    labels: tuple[Difference, ...]
    mean: Difference
    label_p_values: tuple[float, ...]
    p_value: float

    @property
    def verdict(self) -> str:
        """A sentence that names the better system, or says that the difference is not significant."""
        better, worse = (self.first, self.second) if self.mean.value >= 0 else (self.second, self.first)
        low, high = sorted((abs(self.mean.low), abs(self.mean.high)))
        if np.isnan(self.p_value):
            return (
                f"{self.first} and {self.second} cannot be compared: a correlation is undefined, or there are too "
                "few groups."
            )
        if self.p_value < SIGNIFICANT:
            return (
                f"{better} is better than {worse} by {abs(self.mean.value):.4f} "
                f"(95 % interval {low:.4f} to {high:.4f}; p {_p(self.p_value)} after correction)."
            )
        return (
            f"{self.first} and {self.second} do not differ significantly: the difference is {self.mean.value:+.4f} "
            f"(95 % interval {self.mean.low:+.4f} to {self.mean.high:+.4f}; p {_p(self.p_value)} after correction)."
        )


@dataclass(frozen=True)
class Comparison:
    """Scores and differences of all systems on the same clips.

    Attributes:
        scores: for each system, (L + 1,): Pearson's r of each label, then the mean; both averaged over seeds.
        deviations: for each system, the sample standard deviation of the mean r over seeds; NaN for one seed.

    Examples:
        >>> found = emi_ray.compare("work", ["text/1", "text/2"])
        >>> found.labels, found.num_clips, [system.name for system in found.systems]
        (('Joy', 'Fear'), 16, ['text/1', 'text/2'])
    """

    labels: tuple[str, ...]
    num_clips: int
    num_groups: int
    systems: tuple[System, ...]
    scores: tuple[np.ndarray, ...]
    deviations: tuple[float, ...]
    pairs: tuple[Pair, ...]

    @property
    def notes(self) -> list[str]:
        """Sentences that a reader needs to interpret the numbers."""
        notes = [
            f"All systems are scored on the same {plural(self.num_clips, 'clip')} of "
            f"{plural(self.num_groups, 'group')} (people; a clip without a group is a group of its own). Intervals "
            "are for single comparisons, from a paired bootstrap over groups and seeds; p-values are corrected for "
            "the number of comparisons (Holm)."
        ]
        single = [system.name for system in self.systems if len(system.seeds) == 1]
        if single:
            notes.append(
                f"One seed only, so the variance between seeds is not included: {', '.join(single)}."
            )
        return notes


def read_systems(
    workspace: Workspace, names: Sequence[str], split: Literal["val", "test"] = "val"
) -> list[System]:
    """Read systems by name: ``f2`` with all its finished seeds, or the run ``f2/42``; without names, all recipes.

    Raises:
        UserError: there is no such run, or it has no predictions of clips with labels.
    """
    recipes = workspace.folders("runs")
    if not recipes:
        raise UserError(f"{workspace.root} has no runs yet: train some with emi-ray train.")
    found = []
    for name in names or recipes:
        recipe, _, seed = name.strip("/").removeprefix("runs/").partition("/")
        if recipe not in recipes:
            raise UserError(f"{workspace.root} has no finished run of '{name}': {choices(recipe, recipes)}")
        seeds = workspace.folders(f"runs/{recipe}")
        if seed and seed not in seeds:
            raise UserError(f"{workspace.root} has no run '{name}': {choices(seed, seeds)}")
        answers = {
            each: read_scored_predictions(workspace, run_folder(recipe, each), split)
            for each in ([seed] if seed else seeds)
            # Predictions without metrics are those of a run that is being replaced, or was killed meanwhile.
            if workspace.exists(f"{run_folder(recipe, each)}/{METRICS}")
        }
        known = {each: answer for each, answer in answers.items() if answer is not None}
        if not known and names:
            raise UserError(
                f"Run '{name}' has no predictions of {split} clips with labels: finish it with emi-ray train."
            )
        # Without names all recipes are read, and those that are not trained yet are passed over.
        if known:
            found.append(System(f"{recipe}/{seed}" if seed else recipe, known))
    return found


def codes_of_clips(workspace: Workspace, clip_ids: Sequence[str]) -> np.ndarray:
    """Return the group number (N,) of each clip in the corpus; see :func:`emi_ray.resampling.codes_of`."""
    if not workspace.exists(CLIPS):
        return codes_of(None, len(clip_ids))
    clips = workspace.clips()
    if GROUP not in clips.column_names:
        return codes_of(None, len(clip_ids))
    # A clip that left the corpus has no group any more and counts as one of its own.
    group_of = dict(zip(clips["clip_id"].to_pylist(), clips[GROUP].to_pylist(), strict=True))
    return codes_of([group_of.get(clip_id) for clip_id in clip_ids], len(clip_ids))


def common_clips(answers: Sequence[ScoredPredictions]) -> tuple[str, ...]:
    """Return the clips that all are scored on, in the order of the first."""
    shared = set.intersection(*(set(each.clip_ids) for each in answers))
    return tuple(clip_id for clip_id in answers[0].clip_ids if clip_id in shared)


def compare(
    workspace: Workspace, systems: Sequence[System], labels: Sequence[str] | None = None
) -> Comparison:
    """Compare all pairs of systems on the clips that all of them are scored on.

    Args:
        labels: names of the labels to compare; by default all.

    Raises:
        UserError: there are fewer than two systems, no such label or too few common clips, or the systems were scored
            against different label values.
    """
    if len(systems) < 2:
        named = ", ".join(system.name for system in systems) or "none"
        raise UserError(
            f"A comparison needs at least two systems; given: {named}. Name runs of two recipes, or two seeds."
        )
    everything = [answers for system in systems for answers in system.seeds.values()]
    clip_ids = common_clips(everything)
    if len(clip_ids) < FEWEST_CLIPS:
        raise UserError(
            f"{', '.join(system.name for system in systems)} have only {len(clip_ids)} scored clips in common, "
            "which is too few to compare them: train them on the same split."
        )
    chosen = _choose_labels(everything, labels)
    systems = [
        System(system.name, {seed: answers.at(clip_ids).of(chosen) for seed, answers in system.seeds.items()})
        for system in systems
    ]
    _refuse_other_truth(systems)
    true = next(iter(systems[0].seeds.values())).true
    codes = codes_of_clips(workspace, clip_ids)
    # All systems are resampled with the same seed, so that differences are paired.
    sampled = [sample_scores([each.predicted for each in s.seeds.values()], true, codes) for s in systems]
    return Comparison(
        labels=chosen,
        num_clips=len(clip_ids),
        num_groups=len(np.unique(codes)),
        systems=tuple(systems),
        scores=tuple(each.whole.mean(axis=0) for each in sampled),
        # The last column is the mean over labels.
        deviations=tuple(
            float(each.whole[:, -1].std(ddof=1)) if len(each.whole) > 1 else np.nan for each in sampled
        ),
        # Runs of one seed share their random draws, so two systems with the same seeds are paired.
        pairs=_pairs(
            systems,
            [
                score_difference(
                    sampled[a], sampled[b], paired_seeds=list(systems[a].seeds) == list(systems[b].seeds)
                )
                for a, b in combinations(range(len(systems)), 2)
            ],
        ),
    )


def _pairs(systems: Sequence[System], found: Sequence[Sequence[Difference]]) -> tuple[Pair, ...]:
    means = holm([each[-1].p_value for each in found])
    flat = holm([one.p_value for each in found for one in each[:-1]])
    width = len(found[0]) - 1
    return tuple(
        Pair(a.name, b.name, tuple(each[:-1]), each[-1], tuple(flat[i * width : (i + 1) * width]), means[i])
        for i, ((a, b), each) in enumerate(zip(combinations(systems, 2), found, strict=True))
    )


def _choose_labels(answers: Sequence[ScoredPredictions], wanted: Sequence[str] | None) -> tuple[str, ...]:
    known = answers[0].labels
    shared = tuple(label for label in known if all(label in each.labels for each in answers))
    for label in wanted or ():
        if label not in shared:
            raise UserError(f"--label '{label}': {choices(label, shared)}")
    if not shared:
        raise UserError("The runs have no label in common: they were trained on different corpora.")
    return tuple(wanted) if wanted else shared


def _refuse_other_truth(systems: Sequence[System]) -> None:
    first, *others = [(system.name, seed, each) for system in systems for seed, each in system.seeds.items()]
    for name, seed, each in others:
        if not np.array_equal(each.true, first[2].true, equal_nan=True):
            raise UserError(
                f"{first[0]} (seed {first[1]}) and {name} (seed {seed}) were scored against different label values "
                "of the same clips, because the corpus changed in between. Train the older run again."
            )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
