"""Draw splits: the expanded split, folds, and a part of train that is held out for tuning.

Every draw is stratified by the pattern of present labels (above the low end of their range). It depends only on the
seed and the clip ids, not on the order of rows, the machine, or a library's random generator. Clips are sorted by
their pattern of labels and, within it, by a hash of seed and id; starting at a position that the seed determines,
every n-th clip is drawn (systematic sampling). So each part has its exact size, and each pattern its share to
within one clip.

If clips have a ``group`` (a person), whole groups are drawn instead: see :func:`draw_groups`.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.errors import UserError
from emi_ray.schema import GROUP, labels_of
from emi_ray.wording import plural

EXPANDED_VAL_SHARE = 0.2
"""The paper's expanded split is 4:1: of train and val, 10,128 clips are for training and 2,532 for validation."""


def expanded_split(clips: pa.Table, seed: int) -> pa.Table:
    """Move clips from val to train until the ratio is 4:1, as in systems F3 and F4 of the paper. Test is unchanged.

    All clips of train stay there. Of 8,072 and 4,588 clips, 2,056 are moved and 2,532 stay in val, as in the paper,
    which does not say which ones. If clips have groups, whole groups are moved: first those that also have clips in
    train, then as many as bring val closest to a fifth.

    Returns:
        ``clip_id`` and ``split`` of all clips, in the order of ``clips``.

    Raises:
        UserError: val is already a fifth of both or less, or would become empty.
    """
    is_val, is_train = (pc.equal(clips["split"], name).to_numpy() for name in ("val", "train"))
    num_val, num_both = int(is_val.sum()), int(is_val.sum() + is_train.sum())
    # Rounded half up: a fifth of 12,660 clips is 2,532, as in the paper.
    stays = int(num_both * EXPANDED_VAL_SHARE + 0.5)
    if num_val <= stays:
        raise UserError(
            f"split: expanded moves clips from val to train until val is a fifth of both, but val has only "
            f"{num_val:,} of {plural(num_both, 'clip')}. Use split: official, or split: pooled, which draws new "
            "parts."
        )
    # People who are in train already cannot stay in val: that would leak them.
    shared = np.isin(groups_of(clips), groups_of(clips.filter(pa.array(is_train)))) & is_val
    free = clips.filter(pa.array(is_val & ~shared))
    if free.num_rows <= stays:
        drawn = np.full(free.num_rows, "val")
    else:
        drawn = np.array(_draw(free, stays / free.num_rows, seed, "split: expanded"))
    if not free.num_rows:
        raise UserError(
            "split: expanded would leave no clips in val, because every group of val also has clips in train."
        )
    split = np.array(clips["split"].to_pylist(), dtype=object)
    split[shared] = "train"
    split[is_val & ~shared] = drawn
    return pa.table({"clip_id": clips["clip_id"], "split": pa.array(split, pa.string())})


def pooled_split(clips: pa.Table, seed: int) -> pa.Table:
    """Pool train and val and draw new parts 4:1. Test is unchanged.

    Returns:
        ``clip_id`` and ``split`` of all clips, in the order of ``clips``.

    Raises:
        UserError: there are too few clips.
    """
    pooled = pc.is_in(clips["split"], pa.array(["train", "val"]))
    drawn = _draw(clips.filter(pooled), EXPANDED_VAL_SHARE, seed, "split: pooled")
    return pa.table(
        {
            "clip_id": clips["clip_id"],
            "split": pc.replace_with_mask(clips["split"].combine_chunks(), pooled.combine_chunks(), drawn),
        }
    )


def holdout(clips: pa.Table, share: float, seed: int) -> pa.Table:
    """Hold out a part of train for tuning, so that the official val remains for reporting.

    Returns:
        ``clip_id`` and ``split`` (train or val) of the clips of train only, in the order of ``clips``.

    Raises:
        UserError: one of the two parts would be empty.
    """
    train = clips.filter(pc.equal(clips["split"], "train"))
    drawn = _draw(train, share, seed, "the held-out part of train")
    return pa.table({"clip_id": train["clip_id"], "split": drawn})


def k_folds(clips: pa.Table, k: int, seed: int) -> pa.Table:
    """Divide train into ``k`` folds of equal size, to within one clip or as closely as whole groups allow.

    Returns:
        ``clip_id`` and ``fold`` (int32, 0 to k − 1) of the clips of train only, in the order of ``clips``.

    Raises:
        UserError: there are fewer clips, or fewer groups, than folds.
    """
    train = clips.filter(pc.equal(clips["split"], "train"))
    if not 2 <= k <= train.num_rows:
        raise UserError(f"{k} folds of {train.num_rows:,} train clips: choose from 2 to the number of clips.")
    if has_groups(train):
        fold = draw_groups(train, [1 / k] * k, seed)
        if len(np.unique(fold)) < k:
            raise UserError(f"{k} folds of train: its clips have fewer groups than that. Choose fewer folds.")
    else:
        fold = _positions(train, seed) % k
    return pa.table({"clip_id": train["clip_id"], "fold": pa.array(fold, pa.int32())})


def with_split(clips: pa.Table, drawn: pa.Table) -> pa.Table:
    """Return ``clips`` with the splits of a drawn table. Clips that are not in it are left out."""
    split = dict(zip(drawn["clip_id"].to_pylist(), drawn["split"].to_pylist(), strict=True))
    kept = clips.filter(pc.is_in(clips["clip_id"], drawn["clip_id"].combine_chunks()))
    column = pa.array([split[clip_id] for clip_id in kept["clip_id"].to_pylist()], pa.string())
    place = clips.schema.get_field_index("split")
    return kept.set_column(place, clips.schema.field("split"), column)


def _draw(clips: pa.Table, val_share: float, seed: int, what: str) -> pa.Array:
    """Assign ``train`` or ``val`` to each clip."""
    if has_groups(clips):
        is_val = draw_groups(clips, [1 - val_share, val_share], seed) == 1
    else:
        # The position at which the rounded total rises is drawn: this spreads val evenly over the stratified order.
        edges = np.floor(np.arange(clips.num_rows + 1) * val_share + 0.5)
        is_val = np.diff(edges)[_positions(clips, seed)] > 0
    if is_val.all() or not is_val.any():
        raise UserError(
            f"{what}: {val_share:g} of {plural(clips.num_rows, 'clip')} leaves one part empty. "
            "Give more clips or another share."
        )
    return pa.array(np.where(is_val, "val", "train"))


def has_groups(clips: pa.Table) -> bool:
    """Return whether any clip has a group."""
    return GROUP in clips.column_names and clips[GROUP].null_count < clips.num_rows


def groups_of(clips: pa.Table) -> np.ndarray:
    """Return the group (N,) of each clip; a clip without one is a group of its own."""
    if not has_groups(clips):
        return np.array([f"clip/{clip_id}" for clip_id in clips["clip_id"].to_pylist()], dtype=str)
    pairs = zip(clips[GROUP].to_pylist(), clips["clip_id"].to_pylist(), strict=True)
    return np.array([f"clip/{i}" if g is None else f"group/{g}" for g, i in pairs], dtype=str)


def draw_groups(clips: pa.Table, shares: Sequence[float], seed: int) -> np.ndarray:
    """Distribute whole groups over parts, so that each part has about its share of the clips and of each label.

    Groups are assigned one by one, large ones first, in an order that the seed determines among groups of similar
    size. Each is assigned to the part that lacks most of what the group has (by chi-square, like the greedy
    algorithm of stratified group folds).

    Args:
        shares: shares of the parts; their sum is 1.

    Returns:
        The index of the part (N,) int64 of each clip.
    """
    names, group = np.unique(groups_of(clips), return_inverse=True)
    has = np.column_stack([np.ones(clips.num_rows), _patterns(clips) == 1]).astype(np.float64)
    counts = np.zeros((len(names), has.shape[1]))
    np.add.at(counts, group, has)
    hashes = np.array([_hash(seed, name) for name in names], "S32")
    # lexsort takes the last key first: the size in powers of two, then the hash.
    order = np.lexsort([hashes, -np.floor(np.log2(counts[:, 0]))])
    # A label that nobody has would divide by zero below.
    wanted = np.outer(shares, counts.sum(axis=0)).clip(min=1e-9)
    lacking, part = wanted.copy(), np.empty(len(names), np.int64)
    for index in order:
        # Chi-square is the sum of lacking² / wanted. The gain is its decrease if the group goes to that part.
        gain = (counts[index] * (2 * lacking - counts[index]) / wanted).sum(axis=1)
        part[index] = int(np.argmax(gain))
        lacking[part[index]] -= counts[index]
    return part[group]


def _patterns(clips: pa.Table) -> np.ndarray:
    """Return (N, L) for each clip and label: 1 if the label is present, 0 if not, 2 if unknown."""
    patterns = np.zeros((clips.num_rows, 0), np.int8)
    for label in labels_of(clips.schema):
        values = clips[label.name].to_numpy()
        digit = np.where(np.isnan(values), 2, values > label.low).astype(np.int8)
        patterns = np.column_stack([patterns, digit])
    return patterns


def _positions(clips: pa.Table, seed: int) -> np.ndarray:
    """Return the position (N,) of each clip in the stratified random order."""
    patterns = _patterns(clips)
    hashes = [_hash(seed, clip_id) for clip_id in clips["clip_id"].to_pylist()]
    # lexsort takes the last key first, so the patterns are reversed: first label, further labels, then the hash.
    order = np.lexsort([np.array(hashes, "S32"), *patterns.T[::-1]])
    # The start of the systematic sampling depends on the seed too, so that no pattern always has the same positions.
    turn = int(_hash(seed, ""), 16) % max(clips.num_rows, 1)
    positions = np.empty(clips.num_rows, np.int64)
    positions[np.roll(order, turn)] = np.arange(clips.num_rows)
    return positions


def _hash(seed: int, clip_id: str) -> str:
    return hashlib.blake2b(f"{seed}/{clip_id}".encode(), digest_size=16).hexdigest()
