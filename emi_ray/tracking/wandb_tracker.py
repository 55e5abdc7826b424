"""Weights & Biases, online or offline (``WANDB_MODE=offline``)."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from emi_ray.errors import UserError
from emi_ray.tracking.tracker import RunState, TrackedRun
from emi_ray.workspace import Workspace

PROJECT = "emi_ray"
FOLDER = "tracking"

_LOG = logging.getLogger(__name__)

_WITHOUT_LOGIN = ("offline", "disabled", "dryrun")


class WandbTracker:
    """One W&B run for each run or trial, in the project ``WANDB_PROJECT`` or ``emi_ray``, grouped by recipe or study.

    Scores are named ``<stage>/<score>`` and drawn over ``<stage>/epoch``; the final scores are the run's summary.
    W&B keeps its files in ``tracking/wandb/`` of the workspace, or where ``WANDB_DIR`` says.

    Raises:
        UserError: nobody is logged in to W&B here, or its files would lie behind a URI.
    """

    def __init__(self, workspace: Workspace) -> None:
        if not workspace.is_local and "WANDB_DIR" not in os.environ:
            raise UserError(
                f"tracking: wandb keeps files on a local disk, but the workspace is {workspace.root}: set WANDB_DIR "
                "to a local folder."
            )
        self._folder = os.environ.get("WANDB_DIR") or workspace.path(FOLDER)
        os.makedirs(self._folder, exist_ok=True)
        _require_login()
        self._runs: dict[str, Any] = {}

    def begin(self, run: TrackedRun) -> None:
        import wandb

        self._runs[run.name] = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            group=run.group,
            config=dict(run.settings),
            # W&B refuses tags of more than 64 characters.
            tags=[f"{name}: {value}"[:64] for name, value in run.tags.items()],
            dir=self._folder,
            reinit="create_new",  # runs are trained side by side
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, run: TrackedRun, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        tracked = self._runs[run.name]
        # Without a step metric W&B counts calls, and stages that are sent later would not begin at epoch 1.
        tracked.define_metric(f"{stage}/*", step_metric=f"{stage}/epoch")
        tracked.log({f"{stage}/epoch": epoch, **{f"{stage}/{name}": value for name, value in values.items()}})

    def end(self, run: TrackedRun, state: RunState, scores: Mapping[str, float]) -> None:
        tracked = self._runs[run.name]
        tracked.summary.update({**scores, "state": state})
        # W&B marks a run as failed by its exit code.
        tracked.finish(exit_code=0 if state in ("finished", "pruned") else 1)
        del self._runs[run.name]  # not earlier: a failed call is repeated

    def close(self) -> None:
        """Nothing is open between runs."""


def _require_login() -> None:
    """Check that W&B would not ask for a key.

    Raises:
        UserError: it would.
    """
    if os.environ.get("WANDB_MODE", "online") in _WITHOUT_LOGIN:
        return
    import wandb

    try:
        is_logged_in = wandb.login(prompt=False)
    except wandb.errors.Error as error:  # out of reach, or a key that is refused: a tracker costs no run
        _LOG.warning("W&B did not accept the login: %s. Training goes on.", str(error).partition("\n")[0])
        return
    if not is_logged_in:
        raise UserError(
            "tracking: wandb is not logged in on this machine: run 'wandb login', set WANDB_API_KEY, or set "
            "WANDB_MODE=offline and send the runs later with 'wandb sync'."
        )
