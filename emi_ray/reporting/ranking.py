"""Ranking of runs: only runs that are scored on the same clips are ranked, by their scores on these clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emi_ray.comparison import FEWEST_CLIPS
from emi_ray.metrics import mean_score, pearson
from emi_ray.results.predictions import ScoredPredictions, read_scored_predictions
from emi_ray.results.runs import Run
from emi_ray.workspace import Workspace

_LEAST_SHARE = 0.5


@dataclass(frozen=True)
class SameClips:
    """Runs with their predictions of the clips that all of them are scored on, the best run first.

    Attributes:
        runs: the ranked runs.
        answers: predictions of each run for ``clip_ids``.
        clip_ids: the common clips.
        others: number of runs that are not ranked, because they are scored on other clips or have no predictions.
    """

    runs: tuple[Run, ...]
    answers: tuple[ScoredPredictions, ...]
    clip_ids: tuple[str, ...]
    others: int

    @property
    def scores(self) -> list[float]:
        """Mean r of each ranked run."""
        return [_mean(each) for each in self.answers]

    def label_scores(self, run: Run, labels: Sequence[str]) -> list[float]:
        """Return r of each label; NaN if the run is not ranked or does not predict the label."""
        if run not in self.runs:
            return [np.nan] * len(labels)
        answers = self.answers[self.runs.index(run)]
        known = dict(zip(answers.labels, pearson(answers.predicted, answers.true), strict=True))
        return [float(known.get(label, np.nan)) for label in labels]

    def score(self, run: Run) -> float:
        """Return the mean r of a run; NaN if it is not ranked."""
        return self.scores[self.runs.index(run)] if run in self.runs else np.nan


def same_clips(workspace: Workspace, runs: Sequence[Run]) -> SameClips | None:
    """Select runs that can be ranked on common clips.

    Starts with the run that is scored on the most clips. Further runs are added while all added runs still share at
    least half of those clips.

    Returns:
        The runs on their common clips; None if no run has predictions of labelled clips.
    """
    loaded = [(run, read_scored_predictions(workspace, run.folder)) for run in runs if run.metrics]
    known = sorted(
        ((run, answers) for run, answers in loaded if answers is not None),
        key=lambda pair: -len(pair[1].clip_ids),
    )
    if not known:
        return None
    largest = known[0][1]
    fewest = max(FEWEST_CLIPS, _LEAST_SHARE * len(largest.clip_ids))
    shared, taken = set(largest.clip_ids), [known[0]]
    for run, answers in known[1:]:
        both = shared & set(answers.clip_ids)
        if len(both) >= fewest and _agree(largest, answers, both):
            shared = both
            taken.append((run, answers))
    clip_ids = tuple(clip_id for clip_id in largest.clip_ids if clip_id in shared)
    at = [(run, answers.at(clip_ids)) for run, answers in taken]
    order = {run.folder: place for place, run in enumerate(runs)}
    # Runs with equal scores keep the order of the report; undefined scores come last.
    at.sort(key=lambda pair: (-np.nan_to_num(_mean(pair[1]), nan=-np.inf), order[pair[0].folder]))
    return SameClips(
        tuple(run for run, _ in at), tuple(answers for _, answers in at), clip_ids, len(runs) - len(at)
    )


def _agree(one: ScoredPredictions, other: ScoredPredictions, clip_ids: set[str]) -> bool:
    """Return whether two runs were scored against the same label values of some clips."""
    if one.labels != other.labels:
        return False
    chosen = sorted(clip_ids)
    return np.array_equal(one.at(chosen).true, other.at(chosen).true, equal_nan=True)


def _mean(answers: ScoredPredictions) -> float:
    return mean_score("pearson", answers.predicted, answers.true)
