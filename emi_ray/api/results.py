"""Evaluate and use models: evaluate, predict, load_model, compare, report."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.compute as pc

from emi_ray.corpus.listing import Finding
from emi_ray.errors import UserError
from emi_ray.schema import Split
from emi_ray.workspace import Workspace, WorkspaceLike, workspace_of

if TYPE_CHECKING:  # the command line shows its first line before these are imported
    from emi_ray.comparison import Comparison
    from emi_ray.prediction import Predictions


_LOG = logging.getLogger(__name__)


def evaluate(workspace: WorkspaceLike, run: str) -> dict[str, Any]:
    """Score a run again, from its files alone, on every split with labels.

    Args:
        run: ``recipe/seed``, or the recipe if it has only one seed.

    Returns:
        The scores by split, such as ``result["val"]["val_pearson"]``; None for an undefined score.

    Raises:
        UserError: the run does not exist, or its features or clips have changed.

    Examples:
        >>> emi_ray.evaluate("work", "text/1")["val"]["num_val"]
        16
    """
    from emi_ray.ensembles import evaluate_run
    from emi_ray.prediction import problem_of_features

    target = workspace_of(workspace)
    scores = evaluate_run(target, run)
    # Evaluation refuses changed features of the clips that a run was trained and validated on. Features of test clips
    # are not recorded with the run.
    if "test" in scores:
        clips = target.clips()
        if problem := problem_of_features(target, run, clips.filter(pc.equal(clips["split"], "test"))):
            _LOG.warning("The score on test may be wrong. %s", problem)
    return scores


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
    """Predict the labels of clips that a model has never seen.

    Args:
        run: ``recipe/seed``, or the recipe if it has only one seed.
        clips: media files, folders of them, or one table with ``clip_id``, media and ``transcript``. If empty: the
            clips of the workspace's ``split``.
        split: the split to predict if there are no ``clips``.
        address: Ray cluster to use; by default this machine only.
        on_progress: called with the number of clips that are extracted and the total number.
        on_findings: called with findings about the clips, before their features are extracted.

    Raises:
        UserError: the run or the clips do not exist, or features of the workspace are stale.

    Examples:
        >>> found = emi_ray.predict("work", "text/1", "new.csv").to_pandas()
        >>> list(found.columns)
        ['clip_id', 'Joy', 'Fear', 'modalities']
    """
    from emi_ray.ensembles import labels_and_streams
    from emi_ray.new_clips import place_of
    from emi_ray.prediction import Predictions, predict_new_clips, predict_split, read_new_clips
    from emi_ray.runtime import ray_session
    from emi_ray.training.checkpoint import find_run

    target = workspace_of(workspace)
    # Raises the error for an unknown run before the clips are read.
    find_run(target, run)
    sources = (
        [os.fspath(clips)] if isinstance(clips, str | os.PathLike) else [os.fspath(each) for each in clips]
    )
    if sources:
        found = read_new_clips(target, run, sources)
        on_findings(found.warnings)
        with ray_session(address, streaming=True):
            table = predict_new_clips(target, found, on_progress)
        place = place_of(target, found.run, sources)
    else:
        place = None
        table = predict_split(target, run, split)
    labels, streams = labels_and_streams(target, run)
    return Predictions(target, table, tuple(labels), tuple(streams), place)


class Model:
    """A trained model or an ensemble in its workspace. Created by :func:`load_model`."""

    def __init__(self, workspace: Workspace, run: str) -> None:
        self.workspace = workspace
        self.run = run

    def predict(
        self, clips: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (), **options: Any
    ) -> "Predictions":
        """Predict clips with this model; see :func:`predict`."""
        return predict(self.workspace, self.run, clips, **options)

    def __repr__(self) -> str:
        return f"<emi_ray model {self.run} of {self.workspace.root}>"


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a trained model from its folder or the URI of its folder: ``work/runs/f2/42``.

    It stays in its workspace, where the features of new clips are stored.

    Raises:
        UserError: there is no finished run, or an encoder or loss of your own that it was trained with is missing
            here or has changed.

    Examples:
        >>> model = emi_ray.load_model("work/runs/text/1")
        >>> model.predict("new.csv").to_pandas().shape
        (2, 4)
    """
    from emi_ray.ensembles import describe_models

    root, found, run = os.fspath(path).rstrip("/").rpartition("/runs/")
    if not found:
        raise UserError(f"{path} is not the folder of a run: give WORKSPACE/runs/RECIPE/SEED.")
    workspace = Workspace(root)
    described = describe_models(workspace, run)
    for each in described:
        if each.recipe.has_custom_code:
            from emi_ray.models.custom import require_unchanged_code  # imports torch

            require_unchanged_code(each.recipe, workspace.shown(f"runs/{run}"))
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
        runs: recipes with all their seeds (``f2``) or single runs (``f2/42``). If empty: all recipes of the
            workspace.
        labels: by default all.

    Returns:
        Mean scores, and for each pair of systems the difference with its 95 % interval and corrected p-value.

    Raises:
        UserError: a run does not exist, or the systems have no scored clips in common.

    Examples:
        >>> emi_ray.compare("work", ["text/1", "text/2"]).pairs[0].first
        'text/1'
    """
    from emi_ray.comparison import compare as compare_systems
    from emi_ray.comparison import read_systems

    target = workspace_of(workspace)
    target.config()  # raises an error if there is no workspace
    return compare_systems(target, read_systems(target, runs, split), labels)


def report(workspace: WorkspaceLike) -> str:
    """Write the HTML report on a workspace. Returns its path or URI.

    Examples:
        >>> emi_ray.report("work").endswith("work/report/index.html")
        True
    """
    from emi_ray.reporting import build_report

    target = workspace_of(workspace)
    target.config()  # raises an error if there is no workspace
    build_report(target)
    return target.shown("report/index.html")
