"""Splits that are drawn here: 4:1 of train and val, folds, and a part of train held out for tuning.

Every draw is stratified on which labels are present (above the low end of their range), and depends on the
seed and the clip ids alone: not on the order of rows, the machine, or a library's random generator. Clips are
put in order of their pattern of labels and, within it, of a hash of seed and id; from a place that the seed
sets, every so-many-th is taken (systematic sampling). So each part has its exact size, and each pattern its
share to within one clip.
"""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.errors import UserError
from emi_ray.schema import labels_of

EXPANDED_VAL_SHARE = 0.2
"""The paper's expanded split is 4:1: 10,128 clips of train and val to train on, 2,532 to validate."""


def expanded_split(clips: pa.Table, seed: int) -> pa.Table:
    """Train and val pooled and drawn anew 4:1, as in systems F3 and F4; test stays test.

    Returns:
        ``clip_id`` and ``split`` of all clips, in the order of ``clips``.

    Raises:
        UserError: there are too few clips.
    """
    pooled = pc.is_in(clips["split"], pa.array(["train", "val"]))
    drawn = _draw(clips.filter(pooled), EXPANDED_VAL_SHARE, seed, "the 4:1 split of train and val")
    return pa.table(
        {
            "clip_id": clips["clip_id"],
            "split": pc.replace_with_mask(clips["split"].combine_chunks(), pooled.combine_chunks(), drawn),
        }
    )


def holdout(clips: pa.Table, share: float, seed: int) -> pa.Table:
    """A part of train held out to tune on, so that the official val remains for the report.

    Returns:
        ``clip_id`` and ``split`` (train or val) of the clips of train alone, in the order of ``clips``.

    Raises:
        UserError: one of the two parts would be empty.
    """
    train = clips.filter(pc.equal(clips["split"], "train"))
    drawn = _draw(train, share, seed, "the held-out part of train")
    return pa.table({"clip_id": train["clip_id"], "split": drawn})


def k_folds(clips: pa.Table, k: int, seed: int) -> pa.Table:
    """Train cut into ``k`` parts of equal size (to within one clip).

    Returns:
        ``clip_id`` and ``fold`` (int32, 0 to k − 1) of the clips of train alone, in the order of ``clips``.

    Raises:
        UserError: there are fewer clips than folds.
    """
    train = clips.filter(pc.equal(clips["split"], "train"))
    if not 2 <= k <= train.num_rows:
        raise UserError(f"{k} folds of {train.num_rows:,} train clips: choose from 2 to the number of clips.")
    return pa.table({"clip_id": train["clip_id"], "fold": pa.array(_positions(train, seed) % k, pa.int32())})


def with_split(clips: pa.Table, drawn: pa.Table) -> pa.Table:
    """``clips`` under the splits of a drawn table; clips that it does not name are left out."""
    split = dict(zip(drawn["clip_id"].to_pylist(), drawn["split"].to_pylist(), strict=True))
    kept = clips.filter(pc.is_in(clips["clip_id"], drawn["clip_id"].combine_chunks()))
    column = pa.array([split[clip_id] for clip_id in kept["clip_id"].to_pylist()], pa.string())
    place = clips.schema.get_field_index("split")
    return kept.set_column(place, clips.schema.field("split"), column)


def _draw(clips: pa.Table, val_share: float, seed: int, what: str) -> pa.Array:
    """``train`` or ``val`` for each clip."""
    edges = np.floor(np.arange(clips.num_rows + 1) * val_share + 0.5)
    is_val = np.diff(edges)[_positions(clips, seed)] > 0
    if is_val.all() or not is_val.any():
        raise UserError(
            f"{what}: {val_share:g} of {clips.num_rows:,} clips leaves one side empty. "
            "Give more clips or another share."
        )
    return pa.array(np.where(is_val, "val", "train"))


def _positions(clips: pa.Table, seed: int) -> np.ndarray:
    """Place (N,) of each clip in the stratified random order."""
    patterns = np.zeros((clips.num_rows, 0), np.int8)
    for label in labels_of(clips.schema):
        values = clips[label.name].to_numpy()
        digit = np.where(np.isnan(values), 2, values > label.low).astype(np.int8)
        patterns = np.column_stack([patterns, digit])
    hashes = [_hash(seed, clip_id) for clip_id in clips["clip_id"].to_pylist()]
    order = np.lexsort([np.array(hashes, "S32"), *patterns.T[::-1]])
    turn = int(_hash(seed, ""), 16) % max(clips.num_rows, 1)
    positions = np.empty(clips.num_rows, np.int64)
    positions[np.roll(order, turn)] = np.arange(clips.num_rows)
    return positions


def _hash(seed: int, clip_id: str) -> str:
    return hashlib.blake2b(f"{seed}/{clip_id}".encode(), digest_size=16).hexdigest()
