"""TensorBoard: event files in ``tracking/tensorboard/`` of the workspace, one folder for each run or trial."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emi_ray.tracking.tracker import RunState, TrackedRun
from emi_ray.workspace import Workspace

FOLDER = "tracking/tensorboard"


class TensorboardTracker:
    """Writes scalars named ``<score>/<stage>``, the settings, and the final scores as ``final/<score>``.

    Event files are appended to, which object stores cannot do: for a workspace behind a URI they are written into a
    temporary folder and copied when their run ends.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._temporary = (
            None if workspace.is_local else tempfile.TemporaryDirectory(prefix="emi-ray-tensorboard-")
        )
        self._writers: dict[str, Any] = {}

    def begin(self, run: TrackedRun) -> None:
        from tensorboardX import SummaryWriter

        folder = self._folder(run)
        for earlier in folder.glob("events.out.*"):
            earlier.unlink()  # of an interrupted or replaced training; the epochs of a resumed one are sent again
        writer = self._writers[run.name] = SummaryWriter(str(folder))
        # Four spaces make a block of code in TensorBoard's Markdown.
        lines = [f"    {name}: {value}" for name, value in run.settings.items()]
        writer.add_text("settings", "\n".join(lines))

    def log(self, run: TrackedRun, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writers[run.name].add_scalar(f"{name}/{stage}", value, epoch)

    def end(self, run: TrackedRun, state: RunState, scores: Mapping[str, float]) -> None:
        from tensorboardX.summary import hparams

        writer = self._writers.pop(run.name)
        final = {f"final/{name}": value for name, value in scores.items()}
        # The tab HPARAMS. The writer's own `add_hparams` would write a second event file.
        for summary in hparams({**run.settings, "state": state}, final):
            writer.file_writer.add_summary(summary)
        for name, value in final.items():
            writer.add_scalar(name, value, 0)
        writer.close()
        if not self._workspace.is_local:
            for path in self._folder(run).glob("events.out.*"):
                self._workspace.write_bytes(f"{FOLDER}/{run.name}/{path.name}", path.read_bytes())

    def close(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def _folder(self, run: TrackedRun) -> Path:
        root = Path(self._temporary.name if self._temporary else self._workspace.path(FOLDER))
        return root / run.name
