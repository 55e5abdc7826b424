"""Evaluation of the selected recipe of a study on clips that the search never saw.

The selected recipe and the original settings (the start) are trained on the official split with the same seeds.

*Optimism* is the difference between the score in the search and the score on the official split, positive if the
former is better. A part of it is a difference between the two splits, which affects the start as well; the rest comes
from the selection. (A reported run may select its best epoch on the validation clips, like any other run.)
"""

from collections.abc import Sequence
from functools import partial

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError
from emi_ray.recipe.schema import Recipe
from emi_ray.results.studies import (
    BEST,
    ConfirmedTrial,
    FrontPoint,
    ReportedScores,
    StudyResult,
    study_folder,
    write_study_result,
)
from emi_ray.settings import dump_yaml
from emi_ray.training import runs
from emi_ray.tuning.confirmation import OnNote, start_among
from emi_ray.tuning.study import TuningStudy
from emi_ray.wording import plural
from emi_ray.workspace import Workspace


def write_best(study: TuningStudy, workspace: Workspace, number: int) -> Recipe:
    """Write the recipe of a trial to ``studies/<name>/best.yaml``."""
    name, original = study.name, study.settings.recipe
    tuned = study.recipe_of(study.optuna.trials[number])
    best = tuned.model_copy(
        # A name of its own, so that its runs do not replace those of the original recipe.
        update={"name": f"{name}-best", "title": f"{original.title}, tuned", "paper": None}
    )
    header = f"# Trial {number} of study {name}, which started from recipe {original.name}.\n"
    workspace.write_text(f"{study_folder(name)}/{BEST}", header + dump_yaml(best))
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
    on_note(f"Training {recipe.name} with {plural(len(seeds), 'seed')} on the {recipe.split} split.")
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


def evaluate_selected(
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
    settings, original = study.settings, start_among(confirmed, study)
    best = write_best(study, workspace, confirmed[0].number)
    start = settings.recipe.model_copy(update={"name": f"{study.name}-start", "paper": None})
    report = partial(
        report_recipe, workspace, config=config, metric=settings.metric, seeds=seeds, on_note=on_note
    )
    best_reported = report(best)
    start_stays = original is confirmed[0]
    start_reported = best_reported.model_copy(update={"recipe": start.name}) if start_stays else report(start)
    result = StudyResult(
        metric=settings.metric,
        finished=study.counts.finished,
        confirm=how_many,
        seeds=tuple(seeds),
        confirmed=tuple(confirmed),
        start=original,
        best_reported=best_reported,
        start_reported=start_reported,
        parameters=study.optuna.trials[confirmed[0].number].params,
        start_parameters=settings.space.own_values(settings.recipe),
        front=tuple(
            FrontPoint(number=t.number, values=tuple(t.values), parameters=t.params) for t in study.front
        ),
    )
    write_study_result(workspace, study.name, result)
    return result
