import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from emi_ray.corpus.splits import expanded_split, groups_of, holdout, k_folds, pooled_split, with_split
from emi_ray.errors import UserError
from emi_ray.schema import EMOTION_LABELS, EMOTIONS, GROUP, MEDIA_COLUMNS, clips_schema

PRESENT = (0.43, 0.36, 0.30, 0.09, 0.37, 0.31)


def make_clips(num_train: int, num_val: int, num_test: int) -> pa.Table:
    rng = np.random.default_rng(0)
    num_clips = num_train + num_val + num_test
    columns = {
        "clip_id": [f"{number:05d}" for number in range(num_clips)],
        "split": ["train"] * num_train + ["val"] * num_val + ["test"] * num_test,
        **{name: pa.nulls(num_clips, pa.string()) for name in (GROUP, *MEDIA_COLUMNS)},
    }
    for name, share in zip(EMOTIONS, PRESENT, strict=True):
        columns[name] = np.where(rng.random(num_clips) < share, rng.random(num_clips), 0)
    return pa.table(columns, schema=clips_schema(EMOTION_LABELS))


def as_dict(drawn: pa.Table) -> dict:
    return dict(zip(*drawn.to_pydict().values(), strict=True))


def shuffled(clips: pa.Table) -> pa.Table:
    return clips.take(np.random.default_rng(1).permutation(clips.num_rows))


def test_the_expanded_split_has_the_sizes_of_the_paper_and_leaves_test_alone() -> None:
    clips = make_clips(8072, 4588, 100)
    drawn = as_dict(expanded_split(clips, 42))
    assert [list(drawn.values()).count(split) for split in ("train", "val", "test")] == [10128, 2532, 100]
    assert [clip_id for clip_id, split in drawn.items() if split == "test"] == clips["clip_id"].to_pylist()[
        -100:
    ]


def test_the_expanded_split_keeps_all_of_train_and_moves_a_part_of_val() -> None:
    clips = make_clips(8072, 4588, 100)
    drawn = as_dict(expanded_split(clips, 42))
    train = clips.filter(pc.equal(clips["split"], "train"))["clip_id"].to_pylist()
    assert {drawn[clip_id] for clip_id in train} == {"train"}
    moved = [clip_id for clip_id, split in drawn.items() if split == "train"][len(train) :]
    assert len(moved) == 2056


def with_groups(clips: pa.Table, names: list[str | None]) -> pa.Table:
    column = pa.array(names, pa.string())
    if "group" in clips.column_names:
        return clips.set_column(clips.schema.get_field_index("group"), "group", column)
    return clips.add_column(2, pa.field("group", pa.string()), column)


def test_the_expanded_split_moves_whole_people_and_first_those_who_are_in_train() -> None:
    clips = make_clips(300, 200, 20)
    rng = np.random.default_rng(3)
    people = [f"p{n}" for n in rng.integers(0, 15, 300)] + [f"p{n}" for n in rng.integers(13, 40, 200)]
    clips = with_groups(clips, [*people, *[None] * 20])
    drawn = with_split(clips, expanded_split(clips, 42))
    sides = {
        name: set(drawn.filter(pc.equal(drawn["split"], name))["group"].to_pylist())
        for name in ("train", "val")
    }
    assert not sides["train"] & sides["val"]
    assert {"p13", "p14"} <= sides["train"]
    assert 80 <= pc.sum(pc.equal(drawn["split"], "val")).as_py() <= 120


def test_a_val_of_a_fifth_has_nothing_to_move() -> None:
    with pytest.raises(UserError, match="pooled"):
        expanded_split(make_clips(80, 20, 0), 42)


def test_the_pooled_split_draws_both_anew() -> None:
    drawn = as_dict(pooled_split(make_clips(8072, 4588, 100), 42))
    assert [list(drawn.values()).count(split) for split in ("train", "val", "test")] == [10128, 2532, 100]
    assert {split for clip_id, split in drawn.items() if int(clip_id) < 8072} == {"train", "val"}


def test_people_are_in_one_part_only_of_folds_and_held_out_parts_which_keep_their_shares_of_labels() -> None:
    clips = make_clips(2000, 0, 0)
    rng = np.random.default_rng(0)
    clips = with_groups(clips, [f"p{n}" if n else None for n in rng.integers(0, 100, 2000)])
    group = groups_of(clips)
    folds = k_folds(clips, 5, 0)["fold"].to_numpy()
    held = np.array(holdout(clips, 0.2, 0)["split"].to_pylist()) == "val"
    for part in (folds, held):
        assert all(len(set(part[group == name])) == 1 for name in set(group))
    assert np.bincount(folds) == pytest.approx([400] * 5, abs=20)
    assert held.sum() == pytest.approx(400, abs=20)
    for name in EMOTIONS:
        present = clips[name].to_numpy() > 0
        assert present[held].mean() == pytest.approx(present.mean(), abs=0.03)


def test_each_label_is_present_equally_often_in_the_part_of_val_that_moves_and_in_the_rest() -> None:
    clips = make_clips(8072, 4588, 0)
    drawn = with_split(clips, expanded_split(clips, 42)).slice(8072)
    for name in EMOTIONS:
        moved, stayed = (
            np.mean(drawn.filter(pc.equal(drawn["split"], split))[name].to_numpy() > 0)
            for split in ("train", "val")
        )
        assert abs(moved - stayed) < 0.01


def test_a_draw_does_not_depend_on_the_order_of_rows() -> None:
    clips = make_clips(200, 100, 50)
    assert as_dict(expanded_split(shuffled(clips), 7)) == as_dict(expanded_split(clips, 7))
    assert as_dict(k_folds(shuffled(clips), 5, 7)) == as_dict(k_folds(clips, 5, 7))
    assert as_dict(holdout(shuffled(clips), 0.25, 7)) == as_dict(holdout(clips, 0.25, 7))


def test_another_seed_gives_another_draw() -> None:
    clips = make_clips(200, 100, 0)
    assert as_dict(expanded_split(clips, 1)) != as_dict(expanded_split(clips, 2))


def test_a_draw_is_the_same_on_every_machine() -> None:
    drawn = pooled_split(make_clips(20, 10, 0), 42)
    held = [clip_id for clip_id, split in as_dict(drawn).items() if split == "val"]
    assert held == ["00002", "00007", "00018", "00023", "00025", "00029"]


def test_a_rare_pattern_is_not_always_on_the_same_side() -> None:
    clips = make_clips(50, 0, 0)
    sides = {as_dict(holdout(clips, 0.2, seed))["00000"] for seed in range(40)}
    assert sides == {"train", "val"}


def test_folds_are_equally_large_and_cover_train_alone() -> None:
    folds = as_dict(k_folds(make_clips(103, 50, 50), 5, 0))
    assert len(folds) == 103
    assert sorted(np.bincount(list(folds.values())).tolist()) == [20, 20, 21, 21, 21]


def test_the_held_out_part_is_of_train_alone() -> None:
    drawn = as_dict(holdout(make_clips(100, 50, 50), 0.3, 0))
    assert len(drawn) == 100
    assert list(drawn.values()).count("val") == 30


def test_unlabelled_clips_are_drawn_too() -> None:
    clips = make_clips(100, 0, 0)
    unlabelled = clips.set_column(8, clips.schema.field(8), pa.nulls(100, pa.float64()))
    assert list(as_dict(holdout(unlabelled, 0.2, 0)).values()).count("val") == 20


def test_with_split_leaves_out_what_is_not_named_and_keeps_the_schema() -> None:
    clips = make_clips(10, 5, 5)
    drawn = with_split(clips, holdout(clips, 0.2, 0))
    assert drawn.num_rows == 10
    assert drawn.schema.equals(clips.schema, check_metadata=True)


def test_too_few_clips_are_refused() -> None:
    clips = make_clips(2, 0, 0)
    with pytest.raises(UserError, match="leaves one part empty"):
        holdout(clips, 0.1, 0)
    with pytest.raises(UserError, match="5 folds of 2 train clips"):
        k_folds(clips, 5, 0)
