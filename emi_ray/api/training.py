"""From features to models: train, tune."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emi_ray.api.inputs import Overrides, overrides_of
from emi_ray.errors import EmiRayError, UserError
from emi_ray.wording import plural
from emi_ray.workspace import Workspace, WorkspaceLike, workspace_of

if TYPE_CHECKING:  # the command line shows its first line before these are imported
    import pyarrow as pa

    from emi_ray.config import WorkspaceConfig
    from emi_ray.recipe.schema import Recipe
    from emi_ray.results.studies import StudyResult
    from emi_ray.store.feature_store import FeatureStore
    from emi_ray.training.runs import RunRequest, RunResult
    from emi_ray.tuning.tune import OnChange, TuneOptions, TunePlan

DEFAULT_TRIALS = 30


def train(
    workspace: WorkspaceLike,
    recipes: str | Sequence[str],
    *,
    settings: Overrides = (),
    seeds: Sequence[int] = (),
    workers: int = 1,
    gpus_per_run: float | None = None,
    any_features: bool = False,
    force: bool = False,
    address: str | None = None,
) -> list["RunResult"]:
    """Train recipes with one or several seeds, as many runs in parallel as there are GPUs or cores.

    Args:
        recipes: names of shipped recipes, or paths of YAML files.
        settings: settings of the recipes to override.
        seeds: by default ``training.seed`` of each recipe.
        workers: worker processes that share each batch of one large run.
        gpus_per_run: GPUs that each run reserves; by default chosen so that no GPU is idle.
        any_features: train on any available features instead of those that the recipe names.
        force: train finished runs again.
        address: Ray cluster to use; by default this machine only.

    Returns:
        One result per run, with its ``metrics``.

    Raises:
        UserError: a run cannot be trained. The others are trained first.

    Examples:
        >>> results = emi_ray.train("work", "text", seeds=[1, 2], settings={"training.epochs": 3})
        >>> [result.metrics["seed"] for result in results]
        [1, 2]
    """
    plan = plan_runs(
        workspace, [recipes] if isinstance(recipes, str) else recipes, settings, seeds, any_features
    )
    results = train_runs(plan, num_workers=workers, gpus_per_run=gpus_per_run, force=force, address=address)
    raise_problems(results)
    return results


@dataclass(frozen=True)
class TrainingPlan:
    """The runs that a command trains, with what was read to check them.

    Attributes:
        workspace: holds the features and receives the runs.
        config: settings of the workspace.
        requests: the runs.
        stale: sentences on features that the runs would read and whose clips' files or transcripts have changed, or
            that are not extracted yet; training uses the features as they are.
    """

    workspace: Workspace
    config: "WorkspaceConfig"
    requests: list["RunRequest"]
    stale: list[str]


def plan_runs(
    workspace: WorkspaceLike,
    recipes: Sequence[str],
    settings: Overrides = (),
    seeds: Sequence[int] = (),
    any_features: bool = False,
) -> TrainingPlan:
    """Return the runs that :func:`train` would train, after checks that do not need Ray.

    Raises:
        UserError: a recipe or a setting is invalid, the corpus has no labels, or no recipe finds its features.
    """
    from emi_ray.recipe.loading import load_recipe
    from emi_ray.training.data.input_hashes import require_labels
    from emi_ray.training.runs import RunRequest

    target = workspace_of(workspace)
    config, overrides = target.config(), overrides_of(settings)
    loaded = [load_recipe(name, overrides, config.recipe_defaults, any_features) for name in recipes]
    for recipe in loaded:
        if recipe.has_custom_code:
            from emi_ray.models.custom import resolve_custom  # imports torch

            resolve_custom(recipe)  # refuses code that cannot be imported, before Ray starts
    clips = require_labels(target)
    requests = [RunRequest(recipe, seed) for recipe in loaded for seed in seeds or [recipe.training.seed]]
    return TrainingPlan(target, config, requests, _stale_features(target, config, loaded, clips))


def _stale_features(
    workspace: Workspace, config: "WorkspaceConfig", recipes: Sequence["Recipe"], clips: "pa.Table"
) -> list[str]:
    """Return sentences on features that recipes read and whose clips' files or transcripts have changed, or that are
    not extracted yet.

    Raises:
        UserError: none of the recipes finds its features. If only some do not, the others are trained.
    """
    from emi_ray.extraction.pending import what_changed, what_lacks
    from emi_ray.training.data.feature_sources import find_stores

    stores: dict[str, FeatureStore] = {}
    problems: list[UserError] = []
    for recipe in recipes:
        try:
            stores |= {store.folder: store for store in find_stores(workspace, recipe, config).values()}
        except UserError as problem:
            problems.append(problem)
    # As long as one recipe can be trained, the problems of others are reported with their runs.
    if problems and len(problems) == len(recipes):
        raise UserError("\n".join(dict.fromkeys(map(str, problems))))
    said = (tell(store, clips) for store in stores.values() for tell in (what_changed, what_lacks))
    return [sentence for sentence in said if sentence]


def train_runs(plan: TrainingPlan, *, address: str | None = None, **options: Any) -> list["RunResult"]:
    """Train planned runs; ``options`` are those of :func:`emi_ray.training.runs.train_runs`.

    A run that cannot be trained gives a result with a ``problem``.
    """
    from emi_ray.runtime import ray_session
    from emi_ray.tracking import tracking

    # The trackers are checked before Ray starts, which takes seconds.
    with tracking(plan.workspace, plan.config.tracking), ray_session(address):
        from emi_ray.training import runs

        return runs.train_runs(plan.workspace, plan.requests, plan.config, **options)


def raise_problems(results: Sequence["RunResult"]) -> None:
    """Raise one error for all runs that could not be trained: a ``UserError`` if any of them is a mistake of the
    user.
    """
    problems = [result.problem for result in results if result.problem is not None]
    if not problems:
        return
    if len(results) == 1:
        raise problems[0]
    # A user's mistake decides the exit code, because repeating the command cannot help.
    kind = UserError if any(isinstance(problem, UserError) for problem in problems) else EmiRayError
    reasons = "".join(f"\n  {problem}" for problem in problems)
    raise kind(
        f"{plural(len(results) - len(problems), 'run', 'are')} done; {len(problems)} could not be trained:{reasons}"
    )


def tune(
    workspace: WorkspaceLike,
    recipe: str,
    space: str | os.PathLike[str],
    *,
    settings: Overrides = (),
    study: str | None = None,
    trials: int = DEFAULT_TRIALS,
    address: str | None = None,
    **options: Any,
) -> "StudyResult | None":
    """Search for better settings of a recipe. An interrupted study is continued.

    Args:
        space: search space: a YAML file, see ``search_spaces/`` for examples.
        settings: settings of the recipe to override in all trials.
        study: name of the study; by default derived from the recipe and the search space.
        trials: total number of finished trials, including those of earlier calls.
        address: Ray cluster to use; by default this machine only.
        options: further fields of :class:`emi_ray.tuning.tune.TuneOptions`.

    Returns:
        The best settings compared with the original ones; None if ``timeout_s`` ended the search too early.

    Examples:
        >>> outcome = emi_ray.tune("work", "text", "space.yaml", trials=3, confirm=0, seeds=1,
        ...                        settings={"training.epochs": 2})
        >>> outcome.finished
        3
    """
    from emi_ray.tuning.tune import TuneOptions

    name = study or study_name(recipe, space)
    wanted = TuneOptions(space=Path(space), study=name, trials=trials, **options)
    return run_search(plan_search(workspace, recipe, settings, wanted), address=address)


def study_name(recipe: str, space: str | os.PathLike[str]) -> str:
    """Return the default name of a study."""
    return f"{Path(recipe).stem}-{Path(space).stem}".lower()


def plan_search(
    workspace: WorkspaceLike, recipe: str, settings: Overrides, options: "TuneOptions"
) -> "TunePlan":
    """Check a search without starting Ray."""
    from emi_ray.tuning.settings import RecipeSource
    from emi_ray.tuning.tune import plan_tuning

    target = workspace_of(workspace)
    source = RecipeSource(recipe, tuple(overrides_of(settings)), target.config().recipe_defaults)
    return plan_tuning(target, target.config(), source, options)


def run_search(
    plan: "TunePlan",
    *,
    address: str | None = None,
    on_change: "OnChange" = lambda study: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> "StudyResult | None":
    """Start or continue a planned search."""
    from emi_ray.runtime import ray_session
    from emi_ray.tracking import tracking
    from emi_ray.tuning.tune import tune as search

    with tracking(plan.workspace, plan.config.tracking, plan.options.study), ray_session(address):
        return search(plan, on_change, on_note)
