"""Scoring of an ensemble from its files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from emi_ray.ensembles.files import is_ensemble, load_ensemble
from emi_ray.errors import UserError
from emi_ray.evaluation import evaluate_single_run, predict_corpus_clips, refuse_changed
from emi_ray.metrics import compute_scores
from emi_ray.results.predictions import PREDICTIONS, SCORED
from emi_ray.results.runs import SPLIT
from emi_ray.schema import SPLITS, TRUE_PREFIX, Split
from emi_ray.training.checkpoint import LoadedModel, find_run
from emi_ray.training.run_files import digests_in_stores, without_nan
from emi_ray.workspace import Workspace


def evaluate_run(workspace: Workspace, run: str, splits: Sequence[Split] = SPLITS) -> dict[str, Any]:
    """Score a run or an ensemble; see :func:`emi_ray.evaluation.evaluate_single_run`.

    An ensemble is scored on val, with cross-fitted weights, and on test. It has no score on train.

    Raises:
        UserError: as :func:`emi_ray.evaluation.evaluate_single_run`, or clips of the ensemble are no longer in the
            corpus.
    """
    if not is_ensemble(workspace, run):
        return evaluate_single_run(workspace, run, splits)
    folder, loaded = find_run(workspace, run), load_ensemble(workspace, run)
    # The clips and true values are those of the ensemble, whatever the corpus has now.
    stored = workspace.read_table(f"{folder}/{PREDICTIONS}")
    stored = stored.filter(stored[SCORED])
    result: dict[str, Any] = {"recipe": folder.split("/")[1], "seed": loaded.description.seed}
    _refuse_changed_members(workspace, folder, loaded.members)
    names = [label.name for label in loaded.description.labels]
    clips = workspace.clips()
    for split in splits:
        of_split = stored.filter(pc.equal(stored["split"], split))
        if not of_split.num_rows:
            continue
        wanted = clips.filter(pc.is_in(clips["clip_id"], of_split["clip_id"].combine_chunks()))
        if wanted.num_rows < of_split.num_rows:
            raise UserError(
                f"{folder} was built with clips that are no longer in the corpus: build it again."
            )
        predicted = loaded.combine(
            [predict_corpus_clips(workspace, one, wanted) for one in loaded.members], split == "val"
        )
        # Predictions follow the corpus; the stored rows are put into the same order.
        order = pc.index_in(predicted["clip_id"], of_split["clip_id"].combine_chunks())
        true = of_split.take(order)
        values, truth = (
            np.stack([t[c].to_numpy() for c in cols], axis=1)
            for t, cols in ((predicted, names), (true, [f"{TRUE_PREFIX}{name}" for name in names]))
        )
        result[split] = compute_scores(values, truth, loaded.description.labels, split)
    result = without_nan(result)
    workspace.write_json(f"{folder}/evaluation.json", result)
    return result


def _refuse_changed_members(workspace: Workspace, folder: str, members: Sequence[LoadedModel]) -> None:
    ids = workspace.clips(["clip_id"])["clip_id"].combine_chunks()
    for index, member in enumerate(members):
        inner = f"{folder}/members/{index}"
        # Ensembles of earlier versions have no record of the features of their members.
        if workspace.exists(f"{inner}/{SPLIT}"):
            now = digests_in_stores(member.description.stores(workspace), ids)
            refuse_changed(workspace, inner, now, "Train its members again, and build it again.")
