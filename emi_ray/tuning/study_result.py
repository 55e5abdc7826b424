"""Selection of the best recipe of a study, and its evaluation on clips that the search never saw.

The score of the best of many trials is optimistic, because a part of it is luck with the tuning split. Therefore
the best few trials are first retrained with other seeds on the tuning split, together with the original settings
(the start). The best of them is selected if its gain over the start is more than twice the gain's standard error
over seeds and clips; otherwise the start is kept. (These clips were used by the search, so the gain is still a
little optimistic.) The selected recipe and the start are then trained on the official split with the same seeds.

*Optimism* is the difference between the score in the search and the score on the official split, positive if the
former is better. A part of it is a difference between the two splits, which affects the start as well; the rest comes
from the selection. (A reported run may select its best epoch on the validation clips, like any other run.)
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

import ray
from optuna.trial import FrozenTrial, TrialState

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError
from emi_ray.recipe import Recipe
from emi_ray.runtime import results_of
from emi_ray.settings import Settings, dump_yaml
from emi_ray.training import runs
from emi_ray.training.resources import JobResources
from emi_ray.training.stages.encoder_cache import WorkspaceEncoderCache
from emi_ray.tuning.objective import score_recipe
from emi_ray.tuning.ray_search import MAX_RETRIES, SharedData, encoder_cache
from emi_ray.tuning.search_space import Value
from emi_ray.tuning.settings import lower_is_better, study_folder
from emi_ray.tuning.significance import FoldPredictions, SeedScore, gain_standard_error, metric_of
from emi_ray.tuning.study import START, TuningStudy
from emi_ray.tuning.tuning_data import TuningData
from emi_ray.workspace import Workspace

OnNote = Callable[[str], None]
"""Called with a message about the next step."""


_CONFIRMING_SEEDS = 4
_ERRORS = 2.0
"""Required gain over the start in standard errors; two, because the best of several trials is lucky more often."""


class ConfirmedTrial(Settings):
    """A trial on the tuning split: its score in the search, its scores with other seeds, and their mean."""

    number: int
    tuned: float
    confirmed: float
    scores: tuple[float, ...] = ()


class ReportedScores(Settings):
    """Scores of a recipe on the reporting split, one per seed."""

    recipe: str
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.scores)


class FrontPoint(Settings):
    """A trial on the Pareto front of a search with two objectives: no other trial is better in both."""

    number: int
    values: tuple[float, ...]
    parameters: dict[str, Value]


class StudyResult(Settings):
    """The content of ``studies/<name>/result.json``: the best trial against the original settings (the start).

    Attributes:
        finished: number of trials that the best one was selected from.
        confirm: number of best trials that were to be retrained.
        confirmed: the retrained trials, the selected one first.
        start: the trial with the original settings; None if it is not complete.
        front: the Pareto front of a search with two objectives.
    """

    metric: str
    finished: int
    confirm: int = 3
    seeds: tuple[int, ...]
    confirmed: tuple[ConfirmedTrial, ...]
    start: ConfirmedTrial | None
    best_reported: ReportedScores
    start_reported: ReportedScores
    parameters: dict[str, Value]
    start_parameters: dict[str, Value]
    front: tuple[FrontPoint, ...] = ()

    @property
    def best(self) -> ConfirmedTrial:
        return self.confirmed[0]

    @property
    def gain(self) -> float:
        """Gain of the tuned recipe on the reporting split; negative if it is worse than the start."""
        return self._better(self.best_reported.mean, self.start_reported.mean)

    @property
    def optimism(self) -> float:
        """Score of the best trial in the search minus its score on the reporting split (reversed for errors)."""
        return self._better(self.best.tuned, self.best_reported.mean)

    @property
    def optimism_of_start(self) -> float | None:
        """The same for the start, which was not selected by its score: the difference between the two splits."""
        if self.start is None:
            return None
        return self._better(self.start.tuned, self.start_reported.mean)

    def _better(self, score: float, other: float) -> float:
        return other - score if lower_is_better(self.metric) else score - other


def confirm(
    study: TuningStudy,
    shared: SharedData,
    workspace: Workspace,
    resources: JobResources,
    how_many: int,
    on_note: OnNote,
) -> list[ConfirmedTrial]:
    """Retrain the best ``how_many`` trials and the start on the tuning split with other seeds; the best is first.

    With ``how_many`` 0, nothing is retrained and the scores of the search decide.

    Raises:
        EmiRayError: no trial of the study is complete.
    """
    trials, metric = _candidates(study, how_many), study.settings.metric
    own_seed = study.settings.recipe.training.seed
    seeds = [own_seed + 1 + index for index in range(_CONFIRMING_SEEDS if how_many else 0)]
    if seeds:
        on_note(f"Retraining {len(trials)} trials with {len(seeds)} other seeds on the tuning split.")
    score = ray.remote(max_retries=MAX_RETRIES)(_score).options(**resources.options)
    job = (shared.reference, metric, encoder_cache(study.settings, workspace), resources)
    pending = [[score.remote(study.recipe_of(trial), seed, *job) for seed in seeds] for trial in trials]
    judged: dict[int, list[SeedScore]] = {
        trial.number: results_of(references) for trial, references in zip(trials, pending, strict=True)
    }
    found = []
    for trial in trials:
        tuned, scores = trial.values[0], tuple(each.value for each in judged[trial.number])
        # Without the score of the search, which is too high for trials that were lucky in it.
        mean = fmean(scores) if scores else tuned
        found.append(ConfirmedTrial(number=trial.number, tuned=tuned, confirmed=mean, scores=scores))
    best, *_ = ranked = sorted(found, key=lambda each: -study.sign * each.confirmed)
    start = _start_among(ranked, study)
    if start is None:
        on_note(
            "The trial with the original settings is not complete, so the best trial is selected by its score alone."
        )
    if start is None or start is best or not seeds:
        return ranked
    measure = metric_of(metric, judged[best.number][0].labels)
    error = gain_standard_error(judged[best.number], judged[start.number], measure)
    gain = study.sign * (best.confirmed - start.confirmed)
    if gain > _ERRORS * error:
        return ranked
    on_note(
        f"Trial {best.number} gains {gain:.4f} over the original settings, with a standard error of {error:.4f} over "
        "seeds and clips. This is less than two standard errors, so the original settings are kept."
    )
    return [start, *(each for each in ranked if each is not start)]


def write_best(study: TuningStudy, workspace: Workspace, number: int) -> Recipe:
    """Write the recipe of a trial to ``studies/<name>/best.yaml``."""
    name, own = study.name, study.settings.recipe
    tuned = study.recipe_of(study.optuna.trials[number])
    best = tuned.model_copy(update={"name": f"{name}-best", "title": f"{own.title}, tuned", "paper": None})
    header = f"# Trial {number} of study {name}, which started from recipe {own.name}.\n"
    workspace.write_text(f"{study_folder(name)}/best.yaml", header + dump_yaml(best))
    return best


def report_recipe(
    workspace: Workspace,
    recipe: Recipe,
    config: WorkspaceConfig,
    metric: str,
    seeds: Sequence[int],
    on_note: OnNote,
) -> ReportedScores:
    """Train a recipe on the official split with each seed. Finished runs are not repeated.

    Raises:
        EmiRayError: a run failed, or the score is undefined on the reporting split.
    """
    on_note(f"Training {recipe.name} with {len(seeds)} seeds on the {recipe.split} split.")
    scores = []
    for result in runs.train_runs(workspace, [runs.RunRequest(recipe, seed) for seed in seeds], config):
        if result.problem is not None:
            raise result.problem
        value = (result.metrics or {})[metric]
        if value is None:
            raise EmiRayError(
                f"{recipe.name} has no {metric} on the {recipe.split} split, because a label is constant there."
            )
        scores.append(float(value))
    return ReportedScores(recipe=recipe.name, scores=tuple(scores))


def judge(
    study: TuningStudy,
    workspace: Workspace,
    config: WorkspaceConfig,
    confirmed: Sequence[ConfirmedTrial],
    how_many: int,
    seeds: Sequence[int],
    on_note: OnNote,
) -> StudyResult:
    """Train the selected recipe and the start on the official split, and write ``result.json``.

    Args:
        confirmed: result of :func:`confirm`.
        how_many: number of best trials that were to be retrained.
        seeds: random seeds of the training.
    """
    settings, own = study.settings, _start_among(confirmed, study)
    best = write_best(study, workspace, confirmed[0].number)
    start = settings.recipe.model_copy(update={"name": f"{study.name}-start", "paper": None})
    report = partial(
        report_recipe, workspace, config=config, metric=settings.metric, seeds=seeds, on_note=on_note
    )
    best_reported = report(best)
    start_stays = own is confirmed[0]
    start_reported = best_reported.model_copy(update={"recipe": start.name}) if start_stays else report(start)
    outcome = StudyResult(
        metric=settings.metric,
        finished=study.counts.finished,
        confirm=how_many,
        seeds=tuple(seeds),
        confirmed=tuple(confirmed),
        start=own,
        best_reported=best_reported,
        start_reported=start_reported,
        parameters=study.optuna.trials[confirmed[0].number].params,
        start_parameters=settings.space.own_values(settings.recipe),
        front=tuple(
            FrontPoint(number=t.number, values=tuple(t.values), parameters=t.params) for t in study.front
        ),
    )
    derived = {
        "gain": outcome.gain,
        "optimism": outcome.optimism,
        "optimism_of_start": outcome.optimism_of_start,
    }
    workspace.write_json(f"{study_folder(study.name)}/result.json", outcome.model_dump(mode="json") | derived)
    return outcome


def read_study_result(workspace: Workspace, study: str) -> StudyResult | None:
    """Read ``result.json`` of a study; None if it does not exist yet."""
    path = f"{study_folder(study)}/result.json"
    if not workspace.exists(path):
        return None
    values = workspace.read_json(path)
    return StudyResult.model_validate(
        {name: values[name] for name in StudyResult.model_fields if name in values}
    )


def _start_among(confirmed: Sequence[ConfirmedTrial], study: TuningStudy) -> ConfirmedTrial | None:
    """Return the trial with the original settings, or None if it is not complete."""
    start = study.start
    return next((each for each in confirmed if start and each.number == start.number), None)


def _candidates(study: TuningStudy, how_many: int) -> list[FrozenTrial]:
    trials = study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ranked = sorted(trials, key=lambda trial: -study.sign * trial.values[0])
    if not ranked:
        raise EmiRayError(f"Study {study.name} has no complete trial: run more trials, or omit --timeout.")
    chosen = ranked[: max(how_many, 1)]
    return chosen + [trial for trial in ranked[len(chosen) :] if START in trial.user_attrs]


def _score(
    recipe: Recipe,
    seed: int,
    data: TuningData,
    metric: str,
    cache: WorkspaceEncoderCache,
    resources: JobResources,
) -> SeedScore:
    device = resources.take_up()
    folds: list[FoldPredictions] = []
    score = score_recipe(
        recipe, data, metric, seed=seed, device=device, encoder_cache=cache, on_predictions=folds.append
    )
    return SeedScore(score.value, tuple(folds), data.clips.labels)
