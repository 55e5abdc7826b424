"""Several finished runs as one system: a run like any other, which predicts, submits and stands in the report.

Its folder ``runs/<name>/<seed>/`` holds the members' models themselves, so that it outlives them. Weights are fitted
on the validation clips, which no member learnt from; what it then says of a validation clip comes from weights that
were fitted on other people's clips alone (folds between groups), so that its score is honest. Predictions of new
clips use weights that were fitted on all validation clips.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.comparison import codes_of_clips
from emi_ray.config import Settings, dump_yaml, validate
from emi_ray.ensemble_weights import MEAN, EnsembleWeights, Method, combine, fit_weights
from emi_ray.errors import UserError
from emi_ray.evaluation import evaluate_run as evaluate_single
from emi_ray.evaluation import predict_table
from emi_ray.metrics import scores
from emi_ray.recipe import recipe_names
from emi_ray.schema import SPLITS, Label, Split
from emi_ray.training.checkpoint import DESCRIPTION, WEIGHTS, LoadedModel, find_run, load_folder
from emi_ray.training.run_files import METRICS, SPLIT, without_nan
from emi_ray.training.transcripts import TOKENIZER
from emi_ray.workspace import Workspace

ENSEMBLE = "ensemble.json"
_FOLDS = 5


class Member(Settings):
    """One of the runs, as it was when the ensemble was made."""

    run: str
    run_key: str


class _About(Settings):
    """``recipe.yaml`` of an ensemble: for the reader, for no recipe makes it."""

    name: str
    title: str
    members: tuple[str, ...]


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
        said = _Said.of(tables, [label.name for label in self.description.labels])
        values = combine(self.description.weights, said.values, said.patterns)
        if crossed:
            folds = np.array([self.description.folds.get(clip_id, -1) for clip_id in said.clip_ids])
            values = _crossed(values, said, self.description.fold_weights, folds)
        return said.table(values)


@dataclass(frozen=True)
class _Said:
    """What M members say of N clips: (M, N, L), NaN where a member can read nothing of a clip."""

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    values: np.ndarray
    patterns: tuple[str, ...]

    @classmethod
    def of(cls, tables: Sequence[pa.Table], labels: Sequence[str]) -> "_Said":
        parts, had = [], []
        for table in tables:
            values = np.stack([table[label].to_numpy().astype(np.float64) for label in labels], axis=1)
            modalities = table["modalities"].to_pylist()
            parts.append(np.where(np.array([bool(each) for each in modalities])[:, None], values, np.nan))
            had.append(modalities)
        patterns = [
            ",".join(dict.fromkeys(m for one in each for m in one.split(",") if m))
            for each in zip(*had, strict=True)
        ]
        return cls(tuple(tables[0]["clip_id"].to_pylist()), tuple(labels), np.stack(parts), tuple(patterns))

    def table(self, values: np.ndarray) -> pa.Table:
        columns = {label: values[:, index] for index, label in enumerate(self.labels)}
        return pa.table(
            {"clip_id": pa.array(self.clip_ids, pa.string()), **columns, "modalities": list(self.patterns)}
        )

    def at(self, rows: np.ndarray) -> "_Said":
        return _Said(
            tuple(np.array(self.clip_ids)[rows].tolist()),
            self.labels,
            self.values[:, rows],
            tuple(np.array(self.patterns)[rows].tolist()),
        )


def is_ensemble(workspace: Workspace, run: str) -> bool:
    """Whether a run is an ensemble.

    Raises:
        UserError: no run is called so.
    """
    return workspace.exists(f"{find_run(workspace, run)}/{ENSEMBLE}")


def load_ensemble(workspace: Workspace, run: str) -> LoadedEnsemble:
    """The ensemble, rebuilt from the files of its run alone.

    Raises:
        UserError: no run is called so, or its files are of another version.
    """
    folder = find_run(workspace, run)
    path = f"{folder}/{ENSEMBLE}"
    description = validate(EnsembleDescription, workspace.read_json(path), workspace.path(path))
    members = [
        load_folder(workspace, f"{folder}/members/{index}") for index in range(len(description.members))
    ]
    return LoadedEnsemble(description, tuple(members))


def labels_and_streams(workspace: Workspace, run: str) -> tuple[tuple[Label, ...], list[str]]:
    """The labels that a run predicts, and the encoders that it reads with, over all its members."""
    folder = find_run(workspace, run)
    folders = [folder]
    if is_ensemble(workspace, run):
        count = len(workspace.read_json(f"{folder}/{ENSEMBLE}")["members"])
        folders = [f"{folder}/members/{index}" for index in range(count)]
    described = [workspace.read_json(f"{each}/{DESCRIPTION}") for each in folders]
    streams = dict.fromkeys(name for each in described for name in each["recipe"]["encoders"])
    return tuple(Label(**label) for label in described[0]["labels"]), list(streams)


def build_ensemble(
    workspace: Workspace, runs: Sequence[str], name: str, method: Method = "mean", seed: int = 42
) -> dict[str, Any]:
    """Make one run of several finished ones; an ensemble of that name and seed is replaced.

    Args:
        runs: ``f2/42``, or a recipe, which stands for all its seeds.
        name: of its folder under ``runs/``.
        seed: names the folder, and draws the folds.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UserError: fewer than two runs, a run is not finished or is an ensemble itself, the runs have other labels or
            no validation clip that none of them learnt from, or the name is a recipe's.
    """
    folders = _member_folders(workspace, runs)
    folder = f"runs/{name}/{seed}"
    if name in recipe_names() or (
        workspace.folders(f"runs/{name}") and not _is_ensembles_folder(workspace, name)
    ):
        raise UserError(f"--name {name}: a recipe is called so; choose another name for the ensemble.")
    tables = {member: workspace.read_table(f"{member}/predictions.parquet") for member in folders}
    labels = _common_labels(workspace, folders, tables)
    val = _validation_clips(workspace, folders, tables)
    said = _Said.of([_rows_at(table, val) for table in tables.values()], labels)
    readable = np.isfinite(said.values).all(axis=2).any(axis=0)
    said = said.at(readable)
    truth = _truth(tables, said.clip_ids, labels)
    weights, fold_weights, folds = _fit(workspace, said, truth, method, seed)
    values = _crossed(combine(weights, said.values, said.patterns), said, fold_weights, folds)
    test = _Said.of([_rows_at(table, _test_clips(tables)) for table in tables.values()], labels)
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
        folds={clip_id: int(fold) for clip_id, fold in zip(said.clip_ids, folds, strict=True)},
    )
    workspace.delete(folder)
    for index, member in enumerate(folders):
        for file in (WEIGHTS, DESCRIPTION, TOKENIZER):
            if workspace.exists(f"{member}/{file}"):
                workspace.write_bytes(
                    f"{folder}/members/{index}/{file}", workspace.read_bytes(f"{member}/{file}")
                )
    tested = combine(weights, test.values, test.patterns)
    parts = [(said, values, truth, "val"), (test, tested, _truth(tables, test.clip_ids, labels), "test")]
    workspace.write_table(f"{folder}/predictions.parquet", _predictions(parts))
    metrics = _metrics(name, description, values, truth, len(readable) - int(readable.sum()))
    _write_rest(workspace, folder, description, said.clip_ids, folders, metrics)
    return metrics


def evaluate_run(workspace: Workspace, run: str, splits: Sequence[Split] = SPLITS) -> dict[str, Any]:
    """As :func:`emi_ray.evaluation.evaluate_run`; an ensemble is scored on val and test."""
    if not is_ensemble(workspace, run):
        return evaluate_single(workspace, run, splits)
    folder, loaded = find_run(workspace, run), load_ensemble(workspace, run)
    held = workspace.read_table(f"{folder}/predictions.parquet")
    held = held.filter(held["scored"])
    result: dict[str, Any] = {"recipe": folder.split("/")[1], "seed": loaded.description.seed}
    names = [label.name for label in loaded.description.labels]
    clips = workspace.clips()
    for split in splits:
        own = held.filter(pc.equal(held["split"], split))
        if not own.num_rows:
            continue
        wanted = clips.filter(pc.is_in(clips["clip_id"], own["clip_id"].combine_chunks()))
        if wanted.num_rows < own.num_rows:
            raise UserError(f"{folder} was made with clips that the corpus no longer has: make it again.")
        said = loaded.combine(
            [predict_table(workspace, one, wanted) for one in loaded.members], split == "val"
        )
        order = pc.index_in(said["clip_id"], own["clip_id"].combine_chunks())
        true = own.take(order)
        values, truth = (
            np.stack([t[c].to_numpy() for c in cols], axis=1)
            for t, cols in ((said, names), (true, [f"true_{name}" for name in names]))
        )
        result[split] = scores(values, truth, loaded.description.labels, split)
    result = without_nan(result)
    workspace.write_json(f"{folder}/evaluation.json", result)
    return result


def _member_folders(workspace: Workspace, runs: Sequence[str]) -> list[str]:
    folders: list[str] = []
    for run in runs:
        name = run.strip("/").removeprefix("runs/")
        seeds = workspace.folders(f"runs/{name}") if "/" not in name else []
        folders += [f"runs/{name}/{seed}" for seed in seeds] or [find_run(workspace, run)]
    folders = list(dict.fromkeys(folders))
    if len(folders) < 2:
        raise UserError("An ensemble needs two runs at least: name several, or a recipe with several seeds.")
    for folder in folders:
        if workspace.exists(f"{folder}/{ENSEMBLE}"):
            raise UserError(f"{folder} is an ensemble itself: name its members instead.")
        if not workspace.exists(f"{folder}/{METRICS}"):
            raise UserError(f"{folder} is not finished: finish it with emi-ray train.")
    return folders


def _is_ensembles_folder(workspace: Workspace, name: str) -> bool:
    return all(
        workspace.exists(f"runs/{name}/{seed}/{ENSEMBLE}") for seed in workspace.folders(f"runs/{name}")
    )


def _common_labels(workspace: Workspace, folders: Sequence[str], tables: Mapping[str, pa.Table]) -> list[str]:
    first = workspace.read_json(f"{folders[0]}/{DESCRIPTION}")["labels"]
    for folder in folders:
        if workspace.read_json(f"{folder}/{DESCRIPTION}")["labels"] != first:
            raise UserError(f"{folders[0]} and {folder} predict other labels: they make no ensemble.")
        if "modalities" not in tables[folder].column_names:
            raise UserError(f"{folder} was made by an earlier version, which kept less: train it again.")
    return [label["name"] for label in first]


def _validation_clips(
    workspace: Workspace, folders: Sequence[str], tables: Mapping[str, pa.Table]
) -> list[str]:
    """Clips that some member was validated on and none learnt from, in the order of the first that has them."""
    learnt: set[str] = set()
    for folder in folders:
        split = workspace.read_table(f"{folder}/{SPLIT}")
        learnt |= set(split.filter(pc.not_equal(split["split"], "val"))["clip_id"].to_pylist())
    clips: dict[str, None] = {}
    for table in tables.values():
        own = table.filter(pc.and_(pc.equal(table["split"], "val"), table["scored"]))
        clips |= dict.fromkeys(clip_id for clip_id in own["clip_id"].to_pylist() if clip_id not in learnt)
    if len(clips) < _FOLDS:
        raise UserError(
            f"The runs have {len(clips)} validation clips that none of them learnt from, which is too few: train "
            "them on the same split."
        )
    return list(clips)


def _test_clips(tables: Mapping[str, pa.Table]) -> list[str]:
    clips: dict[str, None] = {}
    for table in tables.values():
        clips |= dict.fromkeys(table.filter(pc.equal(table["split"], "test"))["clip_id"].to_pylist())
    return list(clips)


def _rows_at(table: pa.Table, clip_ids: Sequence[str]) -> pa.Table:
    """Rows of some clips in their order; of a clip that is not there, nulls and no modalities."""
    place = pc.index_in(pa.array(clip_ids, pa.string()), table["clip_id"].combine_chunks())
    taken = table.take(place)
    column = taken.column_names.index("modalities")
    taken = taken.set_column(column, "modalities", pc.fill_null(taken["modalities"], ""))
    return taken.set_column(0, "clip_id", pa.array(clip_ids, pa.string()))


def _truth(tables: Mapping[str, pa.Table], clip_ids: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """(N, L), NaN where unknown; the members agree, or it is an error."""
    truth = np.full((len(clip_ids), len(labels)), np.nan)
    for folder, table in tables.items():
        own = _rows_at(table, clip_ids)
        values = np.stack([own[f"true_{label}"].to_numpy().astype(np.float64) for label in labels], axis=1)
        both = np.isfinite(values) & np.isfinite(truth)
        if (values[both] != truth[both]).any():
            raise UserError(
                f"{folder} was scored against other labels than the runs before it: train it again."
            )
        truth = np.where(np.isfinite(values), values, truth)
    return truth


def _fit(
    workspace: Workspace, said: _Said, truth: np.ndarray, method: Method, seed: int
) -> tuple[EnsembleWeights, tuple[EnsembleWeights, ...], np.ndarray]:
    """Weights for new clips, and for each fold those that were fitted without it; and the fold of each clip."""
    codes = codes_of_clips(workspace, said.clip_ids)
    num_groups = int(codes.max()) + 1
    if method == "mean":
        return MEAN, (), np.full(len(codes), -1)
    if num_groups < _FOLDS:
        raise UserError(
            f"Weights are fitted in {_FOLDS} folds between people, but the validation clips are of {num_groups}: "
            "use --weights mean."
        )
    order = np.random.default_rng(seed).permutation(num_groups)
    folds = (np.argsort(order) % _FOLDS)[codes]
    fitted = []
    for fold in range(_FOLDS):
        own = said.at(folds != fold)
        fitted.append(fit_weights(own.values, truth[folds != fold], own.patterns))
    return fit_weights(said.values, truth, said.patterns), tuple(fitted), folds


def _crossed(
    values: np.ndarray, said: _Said, fold_weights: Sequence[EnsembleWeights], folds: np.ndarray
) -> np.ndarray:
    """Predictions, those of a fold by the weights that were fitted without it."""
    crossed = values.copy()
    for fold, weights in enumerate(fold_weights):
        own = folds == fold
        crossed[own] = combine(weights, said.values[:, own], np.array(said.patterns)[own].tolist())
    return crossed


def _predictions(parts: Sequence[tuple[_Said, np.ndarray, np.ndarray, str]]) -> pa.Table:
    tables = []
    for said, values, truth, split in parts:
        table = said.table(values)
        modalities = table["modalities"]
        table = table.drop_columns("modalities").add_column(
            1, "split", pa.array([split] * len(values), pa.string())
        )
        for index, label in enumerate(said.labels):
            column = pa.array(truth[:, index], pa.float64(), mask=np.isnan(truth[:, index]))
            table = table.append_column(f"true_{label}", column)
        table = table.append_column("modalities", modalities)
        scored = np.isfinite(truth).any(axis=1) & np.isfinite(values).all(axis=1)
        tables.append(table.append_column("scored", pa.array(scored)))
    return pa.concat_tables(tables)


def _metrics(
    name: str, description: EnsembleDescription, values: np.ndarray, truth: np.ndarray, num_unread: int
) -> dict[str, Any]:
    key = json.dumps(
        [description.model_dump(mode="json")["members"], description.weights.method, description.seed]
    )
    found = scores(values, truth, description.labels)
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
        learnt |= dict.fromkeys(split.filter(pc.not_equal(split["split"], "val"))["clip_id"].to_pylist())
    clip_ids = [*learnt, *val]
    splits = ["train"] * len(learnt) + ["val"] * len(val)
    workspace.write_table(f"{folder}/{SPLIT}", pa.table({"clip_id": clip_ids, "split": splits}))
    members = [member.run for member in description.members]
    how = "Mean" if description.weights.method == "mean" else "Fitted weights"
    about = _About(name=metrics["recipe"], title=f"{how} of {', '.join(members)}", members=tuple(members))
    workspace.write_text(f"{folder}/recipe.yaml", dump_yaml(about))
    header = pd.DataFrame(
        columns=["stage", "epoch", "train_loss", "val_loss", "val_pearson", "lr", "seconds"]
    )
    workspace.write_text(f"{folder}/history.csv", header.to_csv(index=False))
    workspace.write_json(f"{folder}/versions.json", workspace.read_json(f"{folders[0]}/versions.json"))
    workspace.write_json(f"{folder}/{ENSEMBLE}", description.model_dump(mode="json"))
    workspace.write_json(f"{folder}/{METRICS}", dict(metrics))
