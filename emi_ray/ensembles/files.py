"""``ensemble.json`` and the members' models beside it: what is written, and an ensemble rebuilt from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from emi_ray.ensemble_weights import EnsembleWeights, combine
from emi_ray.ensembles.answers import MemberAnswers, cross_fitted
from emi_ray.schema import Label
from emi_ray.settings import Settings, validate
from emi_ray.training.checkpoint import (
    LoadedModel,
    ModelDescription,
    find_run,
    load_folder,
    read_model_description,
)
from emi_ray.workspace import Workspace

ENSEMBLE = "ensemble.json"


class Member(Settings):
    """One of the runs, as it was when the ensemble was made."""

    run: str
    run_key: str


class EnsembleDescription(Settings):
    """``ensemble.json``: written last.

    Attributes:
        weights: for clips that are new.
        fold_weights: for validation clips, each fitted without the clips of its fold.
        folds: by validation clip, its fold.
    """

    members: tuple[Member, ...]
    labels: tuple[Label, ...]
    seed: int
    weights: EnsembleWeights
    fold_weights: tuple[EnsembleWeights, ...]
    folds: dict[str, int]


@dataclass(frozen=True)
class LoadedEnsemble:
    """An ensemble with its members' models, in their order."""

    description: EnsembleDescription
    members: tuple[LoadedModel, ...]

    def combine(self, tables: Sequence[pa.Table], crossed: bool = False) -> pa.Table:
        """One table of predictions from those of the members, which name the same clips in the same order.

        Args:
            crossed: whether validation clips get the weights that were fitted without them.
        """
        said = MemberAnswers.of(tables, [label.name for label in self.description.labels])
        values = combine(self.description.weights, said.values, said.patterns)
        if crossed:
            folds = np.array([self.description.folds.get(clip_id, -1) for clip_id in said.clip_ids])
            values = cross_fitted(values, said, self.description.fold_weights, folds)
        return said.table(values)


def is_ensemble(workspace: Workspace, run: str) -> bool:
    """Whether a run is an ensemble.

    Raises:
        UserError: no run is called so.
    """
    return workspace.exists(f"{find_run(workspace, run)}/{ENSEMBLE}")


def read_description(workspace: Workspace, folder: str) -> EnsembleDescription:
    """``ensemble.json`` of a folder ``runs/<name>/<seed>``.

    Raises:
        UserError: another version wrote it.
    """
    path = f"{folder}/{ENSEMBLE}"
    return validate(EnsembleDescription, workspace.read_json(path), workspace.path(path))


def load_ensemble(workspace: Workspace, run: str) -> LoadedEnsemble:
    """The ensemble, rebuilt from the files of its run alone.

    Raises:
        UserError: no run is called so, or its files are of another version.
    """
    folder = find_run(workspace, run)
    description = read_description(workspace, folder)
    members = [
        load_folder(workspace, f"{folder}/members/{index}") for index in range(len(description.members))
    ]
    return LoadedEnsemble(description, tuple(members))


def labels_and_streams(workspace: Workspace, run: str) -> tuple[tuple[Label, ...], list[str]]:
    """The labels that a run predicts, and the encoders that it reads with, over all its members."""
    described = describe_models(workspace, run)
    streams = dict.fromkeys(name for each in described for name in each.recipe.encoders)
    return described[0].labels, list(streams)


def describe_models(workspace: Workspace, run: str) -> list[ModelDescription]:
    """What is known of a run's model, or of those of an ensemble's members; no weights are read.

    Raises:
        UserError: there is no such finished run, or another version made it.
    """
    folder = find_run(workspace, run)
    folders = [folder]
    if is_ensemble(workspace, run):
        count = len(read_description(workspace, folder).members)
        folders = [f"{folder}/members/{index}" for index in range(count)]
    return [read_model_description(workspace, each) for each in folders]
