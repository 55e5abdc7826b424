"""The files of an ensemble: ``ensemble.json`` and the models of its members."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from emi_ray.ensemble_weights import EnsembleWeights, combine
from emi_ray.ensembles.member_predictions import MemberPredictions, cross_fitted
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
    """A member run: its name and its key when the ensemble was built."""

    run: str
    run_key: str


class EnsembleDescription(Settings):
    """The content of ``ensemble.json``.

    Attributes:
        members: the member runs, in the order of their models.
        labels: the labels that all members predict.
        seed: random seed of the folds.
        weights: weights for new clips.
        fold_weights: for each fold, the weights that were fitted on the other folds.
        folds: the fold of each validation clip, by clip id.
    """

    members: tuple[Member, ...]
    labels: tuple[Label, ...]
    seed: int
    weights: EnsembleWeights
    fold_weights: tuple[EnsembleWeights, ...]
    folds: dict[str, int]


@dataclass(frozen=True)
class LoadedEnsemble:
    """An ensemble with the loaded models of its members, in the order of ``description.members``."""

    description: EnsembleDescription
    members: tuple[LoadedModel, ...]

    def combine(self, tables: Sequence[pa.Table], crossed: bool = False) -> pa.Table:
        """Combine the predictions of the members into one table.

        Args:
            tables: prediction tables of the members, which list the same clips in the same order.
            crossed: whether validation clips use the weights that were fitted without their fold.
        """
        predicted = MemberPredictions.of(tables, [label.name for label in self.description.labels])
        values = combine(self.description.weights, predicted.values, predicted.patterns)
        if crossed:
            folds = np.array([self.description.folds.get(clip_id, -1) for clip_id in predicted.clip_ids])
            values = cross_fitted(values, predicted, self.description.fold_weights, folds)
        return predicted.table(values)


def is_ensemble(workspace: Workspace, run: str) -> bool:
    """Return whether a run is an ensemble.

    Raises:
        UserError: there is no such run.
    """
    return workspace.exists(f"{find_run(workspace, run)}/{ENSEMBLE}")


def read_description(workspace: Workspace, folder: str) -> EnsembleDescription:
    """Read ``ensemble.json`` from a folder ``runs/<name>/<seed>``.

    Raises:
        UserError: an incompatible version of the package wrote the file.
    """
    path = f"{folder}/{ENSEMBLE}"
    return validate(EnsembleDescription, workspace.read_json(path), workspace.path(path))


def load_ensemble(workspace: Workspace, run: str) -> LoadedEnsemble:
    """Load an ensemble, using only the files of its own folder.

    Raises:
        UserError: there is no such run, or an incompatible version of the package wrote its files.
    """
    folder = find_run(workspace, run)
    description = read_description(workspace, folder)
    members = [
        load_folder(workspace, f"{folder}/members/{index}") for index in range(len(description.members))
    ]
    return LoadedEnsemble(description, tuple(members))


def labels_and_streams(workspace: Workspace, run: str) -> tuple[tuple[Label, ...], list[str]]:
    """Return the labels that a run predicts and the names of its encoders; of an ensemble, of all members."""
    described = describe_models(workspace, run)
    streams = dict.fromkeys(name for each in described for name in each.recipe.encoders)
    return described[0].labels, list(streams)


def describe_models(workspace: Workspace, run: str) -> list[ModelDescription]:
    """Read the description of a run's model, or of the models of all members of an ensemble, without the weights.

    Raises:
        UserError: there is no such finished run, or an incompatible version of the package wrote it.
    """
    folder = find_run(workspace, run)
    folders = [folder]
    if is_ensemble(workspace, run):
        # The copies are described, because the members' own runs may have been trained again.
        count = len(read_description(workspace, folder).members)
        folders = [f"{folder}/members/{index}" for index in range(count)]
    return [read_model_description(workspace, each) for each in folders]
