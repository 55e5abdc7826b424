"""Determine whether ensembles are current: an ensemble is current if its members are."""

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa

from emi_ray.config import WorkspaceConfig
from emi_ray.ensembles import ENSEMBLE, EnsembleDescription, read_description
from emi_ray.errors import UserError
from emi_ray.results.runs import DESCRIPTION, METRICS, run_folder
from emi_ray.settings import validate
from emi_ray.status.models import is_made_of_runs, stale_because, train_command
from emi_ray.status.status_line import Line
from emi_ray.training.checkpoint import ModelDescription
from emi_ray.workspace import Workspace


def ensemble_lines(
    workspace: Workspace, clips: pa.Table, config: WorkspaceConfig, stale_runs: Collection[str] = ()
) -> Iterator[Line]:
    """Yield one line per ensemble, preceded, if it is stale, by one for each member whose own run was deleted."""
    for name in workspace.folders("runs"):
        for seed in workspace.folders(f"runs/{name}"):
            if is_made_of_runs(workspace, run_folder(name, seed)):
                yield from _lines_of(workspace, clips, config, f"{name}/{seed}", stale_runs)


def _lines_of(
    workspace: Workspace, clips: pa.Table, config: WorkspaceConfig, run: str, stale_runs: Collection[str]
) -> Iterator[Line]:
    folder = f"runs/{run}"
    if not (workspace.exists(f"{folder}/{ENSEMBLE}") and workspace.exists(f"{folder}/{METRICS}")):
        unfinished = "the ensemble is not finished: build it again with emi-ray ensemble"
        yield Line("runs", run, missing=1, why=(unfinished,))
        return
    try:
        description = read_description(workspace, folder)
        copies = _copies(workspace, folder, description)
    except UserError as error:
        other = f"it was built by another version: build it again with emi-ray ensemble: {error}"
        yield Line("runs", run, stale=1, why=(other,))
        return
    why = _stale_because(workspace, clips, config, description, copies)
    members = dict.fromkeys(member.run for member in description.members)
    why = why or tuple(f"member {name} is stale" for name in members if name in stale_runs)
    if not why:
        yield Line("runs", run, current=1)
        return
    for member in description.members:
        recipe, _, seed = member.run.partition("/")
        # The ensemble is built from the members' own runs, so a deleted one must be trained first.
        if seed not in workspace.folders(f"runs/{recipe}"):
            yield _gone(workspace, member.run, run)
    yield Line("runs", run, stale=1, why=why, command=_command(workspace, run, description))


def _copies(workspace: Workspace, folder: str, description: EnsembleDescription) -> list[ModelDescription]:
    """Return the descriptions of the members' models that are stored in the ensemble."""
    paths = [f"{folder}/members/{index}/{DESCRIPTION}" for index in range(len(description.members))]
    return [validate(ModelDescription, workspace.read_json(path), workspace.path(path)) for path in paths]


def _stale_because(
    workspace: Workspace,
    clips: pa.Table,
    config: WorkspaceConfig,
    description: EnsembleDescription,
    copies: Sequence[ModelDescription],
) -> tuple[str, ...]:
    """Return the changes of each member. A member whose own run was deleted is judged by its copy in the ensemble."""
    reasons: list[str] = []
    for member, copy in zip(description.members, copies, strict=True):
        own = f"runs/{member.run}/{DESCRIPTION}"
        if workspace.exists(own) and workspace.read_json(own).get("run_key") != member.run_key:
            reasons.append(f"member {member.run} was trained again since")
        else:
            reasons += [
                f"member {member.run}: {why}" for why in stale_because(workspace, clips, config, copy)
            ]
    return tuple(reasons)


def _gone(workspace: Workspace, member: str, run: str) -> Line:
    why = (f"the ensemble {run} cannot be built again without it",)
    return Line("runs", member, missing=1, why=why, command=train_command(workspace, member))


def _command(workspace: Workspace, run: str, description: EnsembleDescription) -> str:
    name, _, seed = run.partition("/")
    members = " ".join(member.run for member in description.members)
    return (
        f"emi-ray ensemble -w {workspace.quoted} {members} --name {name} "
        f"--weights {description.weights.method} --seed {seed}"
    )
