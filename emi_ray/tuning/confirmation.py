"""Selection of the best recipe of a study: the best trials are retrained with other seeds.

The score of the best of many trials is optimistic, because a part of it is luck with the tuning split. Therefore
the best few trials are first retrained with other seeds on the tuning split, together with the original settings
(the start). The best of them is selected if its gain over the start is more than twice the gain's standard error
over seeds and clips; otherwise the start is kept. (These clips were used by the search, so the gain is still a
little optimistic.)
"""

from collections.abc import Callable, Sequence
from statistics import fmean

import ray
from optuna.trial import FrozenTrial, TrialState

from emi_ray.errors import EmiRayError
from emi_ray.recipe.schema import Recipe
from emi_ray.results.studies import ConfirmedTrial
from emi_ray.runtime import results_of
from emi_ray.training.resources import JobResources
from emi_ray.training.stages.encoder_cache import WorkspaceEncoderCache
from emi_ray.tuning.objective import score_recipe
from emi_ray.tuning.ray_search import MAX_RETRIES, SharedData, encoder_cache
from emi_ray.tuning.significance import FoldPredictions, SeedScore, gain_standard_error, metric_of
from emi_ray.tuning.study import START, TuningStudy
from emi_ray.tuning.tuning_data import TuningData
from emi_ray.wording import plural
from emi_ray.workspace import Workspace

OnNote = Callable[[str], None]
"""Called with a message about the next step."""

_CONFIRMING_SEEDS = 4
_ERRORS = 2.0
"""Required gain over the start in standard errors; two, because the best of several trials is lucky more often."""


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
    # The recipe's own seed is left out: the search has selected the trials by their luck with it.
    seeds = [own_seed + 1 + index for index in range(_CONFIRMING_SEEDS if how_many else 0)]
    if seeds:
        on_note(
            f"Retraining {plural(len(trials), 'trial')} with {plural(len(seeds), 'other seed')} on the tuning split."
        )
    # All tasks are submitted before any result is awaited, so that they run in parallel.
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
    start = start_among(ranked, study)
    if start is None:
        on_note(
            "The trial with the original settings is not complete, so the best trial is selected by its score alone."
        )
    if start is None or start is best or not seeds:
        return ranked
    measure = metric_of(metric, judged[best.number][0].labels)
    error = gain_standard_error(judged[best.number], judged[start.number], measure)
    gain = study.sign * (best.confirmed - start.confirmed)
    # False for NaN too: without a known error the original settings stay.
    if gain > _ERRORS * error:
        return ranked
    on_note(
        f"Trial {best.number} gains {gain:.4f} over the original settings, with a standard error of {error:.4f} over "
        "seeds and clips. This is less than two standard errors, so the original settings are kept."
    )
    return [start, *(each for each in ranked if each is not start)]


def start_among(confirmed: Sequence[ConfirmedTrial], study: TuningStudy) -> ConfirmedTrial | None:
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
