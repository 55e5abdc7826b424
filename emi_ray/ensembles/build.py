"""Building an ensemble: fit the weights of its members and write the files of a run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.comparison import codes_of_clips
from emi_ray.ensemble_weights import MEAN, EnsembleWeights, Method, combine, fit_weights
from emi_ray.ensembles.files import ENSEMBLE, EnsembleDescription, Member
from emi_ray.ensembles.member_predictions import MemberPredictions, cross_fitted
from emi_ray.ensembles.members import (
    NUM_FOLDS,
    common_labels,
    member_folders,
    rows_at,
    test_clips,
    true_values,
    validation_clips,
)
from emi_ray.errors import UserError
from emi_ray.metrics import compute_scores
from emi_ray.recipe.loading import recipe_names
from emi_ray.results.predictions import PREDICTIONS, SCORED
from emi_ray.results.runs import DESCRIPTION, HISTORY, METRICS, RECIPE, SPLIT, VERSIONS, run_folder
from emi_ray.schema import TRUE_PREFIX, Label
from emi_ray.settings import Settings, dump_yaml
from emi_ray.training.checkpoint import WEIGHTS
from emi_ray.training.data.transcripts import TOKENIZER
from emi_ray.training.run_files import without_nan
from emi_ray.workspace import Workspace


class _About(Settings):
    """``recipe.yaml`` of an ensemble. It only informs the reader: an ensemble is not trained from a recipe."""

    name: str
    title: str
    members: tuple[str, ...]


def build_ensemble(
    workspace: Workspace, runs: Sequence[str], name: str, method: Method = "mean", seed: int = 42
) -> dict[str, Any]:
    """Combine several finished runs into one. An existing ensemble of the same name and seed is replaced.

    Args:
        runs: runs such as ``f2/42``, or recipes, each of which means all of its seeds.
        name: first part of the ensemble's folder ``runs/<name>/<seed>``.
        method: ``mean`` weighs all members equally; ``fitted`` fits weights for each label.
        seed: second part of the folder, and random seed of the folds.

    Returns:
        The content of ``metrics.json``.

    Raises:
        UserError: there are fewer than two runs; a run is not finished or is an ensemble itself; the runs predict
            different labels; too few validation clips were in no run's training set; or a recipe has that name.
    """
    folders = member_folders(workspace, runs)
    folder = run_folder(name, seed)
    if name in recipe_names() or (
        workspace.folders(f"runs/{name}") and not _is_ensembles_folder(workspace, name)
    ):
        raise UserError(f"--name {name}: this is the name of a recipe; choose another name for the ensemble.")
    with workspace.driving(f"runs/{name}", f"Ensemble {name}"):
        return _build(workspace, folders, folder, name, method, seed)


def _build(
    workspace: Workspace, folders: Sequence[str], folder: str, name: str, method: Method, seed: int
) -> dict[str, Any]:
    keys = _keys_of(workspace, folders)
    tables = {member: workspace.read_table(f"{member}/{PREDICTIONS}") for member in folders}
    labels = common_labels(workspace, folders, tables)
    val = validation_clips(workspace, folders, tables)
    predicted = MemberPredictions.of([rows_at(table, val) for table in tables.values()], labels)
    readable = np.isfinite(predicted.values).all(axis=2).any(axis=0)
    predicted = predicted.at(readable)
    truth = true_values(tables, predicted.clip_ids, labels)
    weights, fold_weights, folds = _fit(workspace, predicted, truth, method, seed)
    values = cross_fitted(
        combine(weights, predicted.values, predicted.patterns), predicted, fold_weights, folds
    )
    tested_ids = test_clips(workspace, folders, tables)
    test = MemberPredictions.of([rows_at(table, tested_ids) for table in tables.values()], labels)
    described = [workspace.read_json(f"{member}/{DESCRIPTION}") for member in folders]
    description = EnsembleDescription(
        members=tuple(
            Member(run=member.removeprefix("runs/"), run_key=each["run_key"])
            for member, each in zip(folders, described, strict=True)
        ),
        labels=tuple(Label(**label) for label in described[0]["labels"]),
        seed=seed,
        weights=weights,
        fold_weights=fold_weights,
        folds={clip_id: int(fold) for clip_id, fold in zip(predicted.clip_ids, folds, strict=True)},
    )
    # Only now, when nothing can be refused any more.
    workspace.delete(folder)
    _copy_models(workspace, folders, folder)
    if _keys_of(workspace, folders) != keys or tuple(each["run_key"] for each in described) != keys:
        workspace.delete(folder)
        raise UserError(
            "A member was trained again while the ensemble was built from it: build the ensemble again when the "
            "training has ended."
        )
    # Weights of all validation clips: no member and no weight has seen the test clips.
    tested = combine(weights, test.values, test.patterns)
    parts = [
        (predicted, values, truth, "val"),
        (test, tested, true_values(tables, test.clip_ids, labels), "test"),
    ]
    workspace.write_table(f"{folder}/{PREDICTIONS}", _predictions(parts))
    metrics = _metrics(name, description, values, truth, len(readable) - int(readable.sum()))
    _write_rest(workspace, folder, description, predicted.clip_ids, folders, metrics)
    return metrics


def _keys_of(workspace: Workspace, folders: Sequence[str]) -> tuple[str, ...]:
    """Return the key of each member; an empty text for one that is not finished now."""
    keys = []
    for folder in folders:
        try:
            keys.append(str(workspace.read_json(f"{folder}/{METRICS}")["run_key"]))
        except FileNotFoundError:
            keys.append("")
    return tuple(keys)


def _is_ensembles_folder(workspace: Workspace, name: str) -> bool:
    return all(
        workspace.exists(f"runs/{name}/{seed}/{ENSEMBLE}") for seed in workspace.folders(f"runs/{name}")
    )


def _copy_models(workspace: Workspace, folders: Sequence[str], to: str) -> None:
    for index, member in enumerate(folders):
        for file in (WEIGHTS, DESCRIPTION, TOKENIZER, SPLIT):
            if workspace.exists(f"{member}/{file}"):
                workspace.write_bytes(
                    f"{to}/members/{index}/{file}", workspace.read_bytes(f"{member}/{file}")
                )


def _fit(
    workspace: Workspace, predicted: MemberPredictions, truth: np.ndarray, method: Method, seed: int
) -> tuple[EnsembleWeights, tuple[EnsembleWeights, ...], np.ndarray]:
    """Fit the weights: for new clips, and for each fold without that fold.

    The folds are cut between groups (people): clips of one person are alike, so weights that were fitted on a
    person's other clips would make the score of this person's clips optimistic.

    Returns:
        The weights for new clips, the weights of each fold, and the fold (N,) of each clip.
    """
    codes = codes_of_clips(workspace, predicted.clip_ids)
    num_groups = int(codes.max()) + 1
    if method == "mean":
        # Equal weights are not fitted, so nothing has to be cross-fitted.
        return MEAN, (), np.full(len(codes), -1)
    if num_groups < NUM_FOLDS:
        raise UserError(
            f"Fitting weights needs validation clips of at least {NUM_FOLDS} people, one for each fold, but there "
            f"are only {num_groups}: use --weights mean."
        )
    # Folds are drawn over groups and then passed on to the clips, so that no person is in two folds.
    order = np.random.default_rng(seed).permutation(num_groups)
    # order and its argsort are permutations of the groups; codes passes a group's fold on to its clips.
    folds = (np.argsort(order) % NUM_FOLDS)[codes]
    fitted = []
    for fold in range(NUM_FOLDS):
        fitting = predicted.at(folds != fold)
        fitted.append(fit_weights(fitting.values, truth[folds != fold], fitting.patterns))
    return fit_weights(predicted.values, truth, predicted.patterns), tuple(fitted), folds


def _predictions(parts: Sequence[tuple[MemberPredictions, np.ndarray, np.ndarray, str]]) -> pa.Table:
    tables = []
    for predicted, values, truth, split in parts:
        table = predicted.table(values)
        modalities = table["modalities"]
        table = table.drop_columns("modalities").add_column(
            1, "split", pa.array([split] * len(values), pa.string())
        )
        for index, label in enumerate(predicted.labels):
            column = pa.array(truth[:, index], pa.float64(), mask=np.isnan(truth[:, index]))
            table = table.append_column(f"{TRUE_PREFIX}{label}", column)
        table = table.append_column("modalities", modalities)
        scored = np.isfinite(truth).any(axis=1) & np.isfinite(values).all(axis=1)
        tables.append(table.append_column(SCORED, pa.array(scored)))
    return pa.concat_tables(tables)


def _metrics(
    name: str, description: EnsembleDescription, values: np.ndarray, truth: np.ndarray, num_unread: int
) -> dict[str, Any]:
    key = json.dumps(
        [description.model_dump(mode="json")["members"], description.weights.method, description.seed]
    )
    found = compute_scores(values, truth, description.labels)
    return without_nan(
        {
            "recipe": name,
            "seed": description.seed,
            **found,
            "num_left_out": {"val": num_unread},
            "members": [member.run for member in description.members],
            "weights": description.weights.method,
            "stages": {},
            "run_key": hashlib.blake2b(key.encode(), digest_size=6).hexdigest(),
        }
    )


def _write_rest(
    workspace: Workspace,
    folder: str,
    description: EnsembleDescription,
    val: Sequence[str],
    folders: Sequence[str],
    metrics: Mapping[str, Any],
) -> None:
    learnt: dict[str, None] = {}
    for member in folders:
        split = workspace.read_table(f"{member}/{SPLIT}")
        # The inner part counts as train here, because it selected the best epochs.
        learnt |= dict.fromkeys(split.filter(pc.not_equal(split["split"], "val"))["clip_id"].to_pylist())
    clip_ids = [*learnt, *val]
    splits = ["train"] * len(learnt) + ["val"] * len(val)
    workspace.write_table(f"{folder}/{SPLIT}", pa.table({"clip_id": clip_ids, "split": splits}))
    members = [member.run for member in description.members]
    how = "Mean" if description.weights.method == "mean" else "Fitted weights"
    about = _About(name=metrics["recipe"], title=f"{how} of {', '.join(members)}", members=tuple(members))
    workspace.write_text(f"{folder}/{RECIPE}", dump_yaml(about))
    # An ensemble has no epochs, but readers of runs expect the file.
    header = pd.DataFrame(
        columns=["stage", "epoch", "train_loss", "val_loss", "val_pearson", "lr", "seconds"]
    )
    workspace.write_text(f"{folder}/{HISTORY}", header.to_csv(index=False))
    # Building an ensemble trains nothing, so the versions are those of a member.
    workspace.write_json(f"{folder}/{VERSIONS}", workspace.read_json(f"{folders[0]}/{VERSIONS}"))
    workspace.write_json(f"{folder}/{ENSEMBLE}", description.model_dump(mode="json"))
    # Last, because its existence means that the run is finished.
    workspace.write_json(f"{folder}/{METRICS}", dict(metrics))
