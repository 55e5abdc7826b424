"""Experiment trackers for runs and trials: TensorBoard, MLflow and Weights & Biases.

They are chosen by ``tracking: [wandb, mlflow, tensorboard]`` in ``emi_ray.yaml``. A tracker receives the settings of
each run, its losses and scores after every epoch of every stage, and its final scores; of a search also each trial.
It listens to the events of :mod:`emi_ray.events`, so that training and tuning know nothing of it. A tracker that
cannot be reached costs no run: it is named in a warning, and switched off if it keeps failing.

listener.py             from events to calls of trackers, in a thread of its own
sink.py                 one tracker, whose errors are warnings
tracker.py              what a tracker is
tensorboard_tracker.py  event files in the workspace
mlflow_tracker.py       MLflow
wandb_tracker.py        Weights & Biases
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from emi_ray.config import TrackerName
from emi_ray.errors import UserError
from emi_ray.tracking.listener import Listener
from emi_ray.tracking.mlflow_tracker import MlflowTracker
from emi_ray.tracking.tensorboard_tracker import TensorboardTracker
from emi_ray.tracking.tracker import Tracker
from emi_ray.tracking.wandb_tracker import WandbTracker
from emi_ray.workspace import Workspace

TRACKERS: dict[TrackerName, tuple[Callable[[Workspace], Tracker], str, str]] = {
    "wandb": (WandbTracker, "wandb", "wandb"),
    "mlflow": (MlflowTracker, "mlflow", "mlflow-skinny"),
    "tensorboard": (TensorboardTracker, "tensorboardX", "tensorboardX"),
}
"""Each tracker, the module that it needs, and the package that brings the module."""


@contextmanager
def tracking(workspace: Workspace, names: Sequence[TrackerName], study: str | None = None) -> Iterator[None]:
    """Send what the ``with`` block trains to trackers.

    Args:
        workspace: holds the runs; trackers that write files write into its folder ``tracking/``.
        names: the trackers, as in ``emi_ray.yaml``; none: the block is not tracked.
        study: name of the study that the block searches, under which its runs are grouped.

    Raises:
        UserError: the package of a tracker is not installed, or the tracker is not set up.
    """
    # Checked before any tracker is made, because making one may log in or create files.
    for name in names:
        require_package(name)
    trackers: dict[str, Tracker] = {name: TRACKERS[name][0](workspace) for name in dict.fromkeys(names)}
    if not trackers:
        yield
        return
    with Listener(workspace, trackers, study):
        yield


def require_package(name: TrackerName) -> None:
    """Check that the package of a tracker is installed, without importing it.

    Raises:
        UserError: it is not installed.
    """
    _, module, package = TRACKERS[name]
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"tracking: {name} needs the package {package}, which is not installed: pip install {package}, or remove "
            f"{name} from tracking in emi_ray.yaml."
        )


__all__ = ["TRACKERS", "Tracker", "require_package", "tracking"]
