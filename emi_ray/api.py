"""The Python API: what each verb of the command line does, as a function.

    import emi_ray

    emi_ray.init("work", "clips.csv")
    emi_ray.extract("work")
    emi_ray.train("work", "f2", seeds=[1, 2, 3])
    emi_ray.predict("work", "f2/1", ["new/clip.mp4"]).to_pandas()

Everything here is available as ``emi_ray.<name>``. A workspace is given as a path, a URI, or a
:class:`~emi_ray.workspace.Workspace`. Functions that need Ray start a local session for the time of the call, use the
session that is running, or connect to ``address``. A mistake of the caller raises :class:`~emi_ray.errors.UserError`,
work that fails :class:`~emi_ray.errors.EmiRayError`; both say what to do.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emi_ray.config import CorpusKind
from emi_ray.corpus.listing import Finding
from emi_ray.errors import EmiRayError, UserError
from emi_ray.schema import Modality, Split
from emi_ray.workspace import Workspace

if TYPE_CHECKING:  # the command line shows its first line before these are imported
    from emi_ray.comparison import Comparison
    from emi_ray.corpus.manifest import Corpus
    from emi_ray.extraction.measure import Measurement
    from emi_ray.extraction.pools import Pool
    from emi_ray.extraction.summary import ExtractionSummary
    from emi_ray.prediction import Predictions
    from emi_ray.training.runs import RunRequest, RunResult
    from emi_ray.tuning.outcome import Outcome
    from emi_ray.tuning.tune import OnChange, TuneOptions, TunePlan

WorkspaceLike = Workspace | str | os.PathLike[str]
Overrides = Mapping[str, Any] | Sequence[str]
"""Settings: ``{"training.epochs": 30}``, or as the command line has them, ``["training.epochs=30"]``."""

RECIPE_SECTIONS = ("training", "encoders", "fusion", "objective")
"""Sections of ``emi_ray.yaml`` that set the defaults of recipes."""

DEFAULT_TRIALS = 30


def init(
    workspace: WorkspaceLike,
    source: str | os.PathLike[str],
    *,
    corpus: CorpusKind = "table",
    settings: Overrides = (),
) -> "Corpus":
    """Read a corpus into a workspace.

    Args:
        source: folder, table (CSV, Parquet) or URI of the corpus.
        corpus: what the source is: ``table``, ``folder`` or ``vidmimic2``.

    Returns:
        The checked clips, and as ``findings`` what is remarkable about them.

    Raises:
        UserError: the corpus cannot work, or a setting is wrong; nothing is written then.

    >>> corpus = emi_ray.init("work", "clips.csv")
    >>> corpus.clips.num_rows, [label.name for label in corpus.labels]
    (48, ['Joy', 'Fear'])
    """
    from emi_ray.corpus.setup import init_workspace

    return init_workspace(_workspace(workspace), corpus, os.fspath(source), _overrides(settings))


def extract(
    workspace: WorkspaceLike,
    modalities: Sequence[Modality] | None = None,
    *,
    settings: Overrides = (),
    retry_failed: bool = False,
    address: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> "ExtractionSummary":
    """Turn the clips of a workspace into features. What is done already is not done again.

    Args:
        modalities: by default all that the workspace has extractors for.
        retry_failed: try only what is quarantined.
        on_progress: called with the number of clips that are done, and of all.

    Returns:
        What was done, what was quarantined and why, and how fast it went.

    >>> summary = emi_ray.extract("work", ["text"])
    >>> summary.stages["text"].ok, summary.stages["text"].failed
    (48, 0)
    """
    from emi_ray import extraction
    from emi_ray.runtime import ray_session

    target = _workspace(workspace)
    config = target.config(_overrides(settings))
    extraction.check(target, config, modalities)
    with ray_session(address, streaming=True):
        return extraction.extract(target, config, modalities, retry_failed, on_progress)


def plan_extraction(
    workspace: WorkspaceLike,
    modalities: Sequence[Modality] | None = None,
    *,
    settings: Overrides = (),
    address: str | None = None,
) -> "tuple[dict[str, Pool], Measurement]":
    """Try each stage of an extraction on a few clips, and propose how many actors it should have. Writes nothing."""
    from emi_ray import extraction
    from emi_ray.runtime import ray_session

    target = _workspace(workspace)
    config = target.config(_overrides(settings))
    extraction.check(target, config, modalities)
    with ray_session(address):
        return extraction.plan(target, config, modalities)


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
    """Train recipes with one or several seeds, as many runs at once as there are GPUs or cores.

    Args:
        recipes: names of shipped recipes, or paths of YAML files.
        seeds: by default ``training.seed`` of each recipe.
        workers: processes that share each batch of one large run.
        any_features: train on whatever features there are, not on those that the recipe names.
        force: train again what is finished.

    Returns:
        One result a run, with its ``metrics``.

    Raises:
        UserError: a run cannot be trained. Those that can are trained first.

    >>> results = emi_ray.train("work", "text", seeds=[1, 2], settings={"training.epochs": 3})
    >>> [result.metrics["seed"] for result in results]
    [1, 2]
    """
    requests = plan_runs(
        workspace, [recipes] if isinstance(recipes, str) else recipes, settings, seeds, any_features
    )
    results = train_runs(
        workspace, requests, workers=workers, gpus_per_run=gpus_per_run, force=force, address=address
    )
    raise_problems(results)
    return results


def plan_runs(
    workspace: WorkspaceLike,
    recipes: Sequence[str],
    settings: Overrides = (),
    seeds: Sequence[int] = (),
    any_features: bool = False,
) -> list["RunRequest"]:
    """The runs that :func:`train` would train, checked without starting Ray."""
    from emi_ray.recipe import load_recipe
    from emi_ray.training.inputs import require_labels
    from emi_ray.training.runs import RunRequest

    target = _workspace(workspace)
    defaults, overrides = _recipe_defaults(target), _overrides(settings)
    loaded = [load_recipe(name, overrides, defaults, any_features) for name in recipes]
    require_labels(target)
    return [RunRequest(recipe, seed) for recipe in loaded for seed in seeds or [recipe.training.seed]]


def train_runs(
    workspace: WorkspaceLike, requests: Sequence["RunRequest"], *, address: str | None = None, **options: Any
) -> list["RunResult"]:
    """Train planned runs; ``options`` are those of :func:`emi_ray.training.runs.train_runs`. A run that cannot be
    trained is a result with a ``problem``."""
    from emi_ray.runtime import ray_session

    target = _workspace(workspace)
    num_workers = options.pop("workers", 1)
    with ray_session(address):
        from emi_ray.training import runs

        return runs.train_runs(target, requests, target.config(), num_workers=num_workers, **options)


def raise_problems(results: Sequence["RunResult"]) -> None:
    """Raise one error for all runs that could not be trained: a ``UserError`` if any is the user's mistake."""
    problems = [result.problem for result in results if result.problem is not None]
    if not problems:
        return
    if len(results) == 1:
        raise problems[0]
    kind = UserError if any(isinstance(problem, UserError) for problem in problems) else EmiRayError
    reasons = "".join(f"\n  {problem}" for problem in problems)
    raise kind(f"{len(results) - len(problems)} runs are done; {len(problems)} could not be made:{reasons}")


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
) -> "Outcome | None":
    """Search for better settings of a recipe. A study that was interrupted goes on.

    Args:
        space: YAML file of what may vary, as in ``search_spaces/``.
        study: name of the study; by default made of the recipe and the search space.
        trials: finished trials in all, with those of earlier calls.
        options: further fields of :class:`emi_ray.tuning.tune.TuneOptions`.

    Returns:
        The best settings beside the recipe's own; None where ``timeout_s`` ended the search too early to tell.

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
    """What a study is called that was given no name."""
    return f"{Path(recipe).stem}-{Path(space).stem}".lower()


def plan_search(
    workspace: WorkspaceLike, recipe: str, settings: Overrides, options: "TuneOptions"
) -> "TunePlan":
    """A search, checked without starting Ray."""
    from emi_ray.tuning.settings import RecipeSource
    from emi_ray.tuning.tune import plan_tuning

    target = _workspace(workspace)
    source = RecipeSource(recipe, tuple(_overrides(settings)), _recipe_defaults(target))
    return plan_tuning(target, target.config(), source, options)


def run_search(
    plan: "TunePlan",
    *,
    address: str | None = None,
    on_change: "OnChange" = lambda study: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> "Outcome | None":
    """Run a planned search, or go on with it."""
    from emi_ray.runtime import ray_session
    from emi_ray.tuning.tune import tune as search

    with ray_session(address):
        return search(plan, on_change, on_note)


def evaluate(workspace: WorkspaceLike, run: str) -> dict[str, Any]:
    """Score a run again from its files alone, on every split that has labels.

    Args:
        run: ``recipe/seed``, or the recipe where it has one seed only.

    Returns:
        By split the scores, as ``result["val"]["val_pearson"]``; None for a score that does not exist.

    >>> emi_ray.evaluate("work", "text/1")["val"]["num_val"]
    16
    """
    from emi_ray.ensembles import evaluate_run

    return evaluate_run(_workspace(workspace), run)


def predict(
    workspace: WorkspaceLike,
    run: str,
    clips: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    *,
    split: Split = "test",
    address: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_findings: Callable[[Sequence[Finding]], None] = lambda findings: None,
) -> "Predictions":
    """Predict clips that a model has never seen.

    Args:
        clips: media files, folders of them, or one table with ``clip_id``, media and ``transcript``. None: the clips
            of the workspace's own ``split``.
        on_findings: called with what is wrong with the clips, before their features are extracted.

    >>> found = emi_ray.predict("work", "text/1", "new.csv").to_pandas()
    >>> list(found.columns)
    ['clip_id', 'Joy', 'Fear', 'modalities']
    """
    from emi_ray.ensembles import labels_and_streams
    from emi_ray.prediction import Predictions, predict_clips, predict_split, read_new_clips
    from emi_ray.runtime import ray_session
    from emi_ray.training.checkpoint import find_run

    target = _workspace(workspace)
    find_run(target, run)
    sources = (
        [os.fspath(clips)] if isinstance(clips, str | os.PathLike) else [os.fspath(each) for each in clips]
    )
    if sources:
        found = read_new_clips(target, run, sources)
        on_findings(found.warnings)
        with ray_session(address, streaming=True):
            table = predict_clips(target, found, on_progress)
    else:
        table = predict_split(target, run, split)
    labels, streams = labels_and_streams(target, run)
    return Predictions(target, table, tuple(labels), tuple(streams))


class Model:
    """A trained model, or an ensemble, in its workspace. Made by :func:`load_model`."""

    def __init__(self, workspace: Workspace, run: str) -> None:
        self.workspace = workspace
        self.run = run

    def predict(
        self, clips: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (), **options: Any
    ) -> "Predictions":
        """As :func:`predict`, by this model."""
        return predict(self.workspace, self.run, clips, **options)

    def __repr__(self) -> str:
        return f"<emi_ray model {self.run} of {self.workspace.root}>"


def load_model(path: str | os.PathLike[str]) -> Model:
    """The trained model whose folder, or URI of a folder, is given: ``work/runs/f2/42``.

    It stays in its workspace, where the features of new clips are kept.

    Raises:
        UserError: there is no finished run.

    >>> model = emi_ray.load_model("work/runs/text/1")
    >>> model.predict("new.csv").to_pandas().shape
    (2, 4)
    """
    from emi_ray.ensembles import labels_and_streams

    root, found, run = os.fspath(path).rstrip("/").rpartition("/runs/")
    if not found:
        raise UserError(f"{path} is not the folder of a run: give WORKSPACE/runs/RECIPE/SEED.")
    workspace = Workspace(root)
    labels_and_streams(workspace, run)
    return Model(workspace, run)


def compare(
    workspace: WorkspaceLike,
    runs: Sequence[str] = (),
    *,
    labels: Sequence[str] | None = None,
    split: Literal["val", "test"] = "val",
) -> "Comparison":
    """Compare systems on the clips that all of them are scored on.

    Args:
        runs: recipes with all their seeds (``f2``) or single runs (``f2/42``); None: all recipes of the workspace.
        labels: by default all.

    Returns:
        Mean scores, and for each pair of systems the difference with its 95 % interval and corrected p-value.

    >>> emi_ray.compare("work", ["text/1", "text/2"]).pairs[0].first
    'text/1'
    """
    from emi_ray.comparison import compare as compare_systems
    from emi_ray.comparison import read_systems

    target = _workspace(workspace)
    target.config()  # a workspace must be there
    return compare_systems(target, read_systems(target, runs, split), labels)


def report(workspace: WorkspaceLike) -> str:
    """Write the HTML report of everything that a workspace holds; returns its path or URI.

    >>> emi_ray.report("work").endswith("work/report/index.html")
    True
    """
    from emi_ray.reporting import build_report

    target = _workspace(workspace)
    target.config()  # a workspace must be there
    build_report(target)
    return target.shown("report/index.html")


def _workspace(given: WorkspaceLike) -> Workspace:
    return given if isinstance(given, Workspace) else Workspace(os.fspath(given))


def _overrides(settings: Overrides) -> list[str]:
    if isinstance(settings, str):
        raise UserError(f"settings = {settings!r}: give a list of settings, or a mapping.")
    if isinstance(settings, Mapping):
        return [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    return list(settings)


def _recipe_defaults(workspace: Workspace) -> dict[str, Any]:
    config = workspace.config()
    return {name: getattr(config, name) for name in RECIPE_SECTIONS}
