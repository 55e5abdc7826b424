from itertools import count

import pytest

from emi_ray.extraction.batches import Attempt
from emi_ray.extraction.broken_stage import MANY, BrokenStage

NUMBERS = count()


def bad(reason: str = "IndexError: index 7 of 5") -> Attempt:
    return Attempt(f"c{next(NUMBERS)}", failure=("text", reason), is_unforeseen=True)


def good() -> Attempt:
    return Attempt(f"c{next(NUMBERS)}", result=1)


def new() -> BrokenStage:
    return BrokenStage(has_worked=lambda: False)


def test_a_stage_whose_first_batch_fails_alike_is_broken_whatever_the_numbers():
    found = new().found_in([bad(), bad("IndexError: index 8 of 2")], ())
    assert found == "2 clips one after another fail alike (IndexError: index 8 of 2)."


@pytest.mark.parametrize(
    "batch",
    [
        [bad()],
        [bad(), bad("KeyError: 'x'")],
        [good(), bad(), bad()],
        [Attempt("a", failure=("text", "no face"))] * 3,
    ],
    ids=["one clip", "other reasons", "one works", "errors of clips"],
)
def test_other_batches_do_not_make_a_stage_broken(batch):
    assert new().found_in(batch, ()) is None


def test_a_stage_that_has_worked_is_broken_only_after_many_clips():
    for stage in (BrokenStage(has_worked=lambda: True), new()):
        assert stage.found_in([good(), bad()], ()) is None
        assert {stage.found_in([bad()], ()) for _ in range(MANY - 2)} == {None}
        assert "quarantined: --retry-failed" in stage.found_in([bad()], ())


def test_a_success_between_them_starts_the_count_anew():
    stage = BrokenStage(has_worked=lambda: True)
    for _ in range(3):
        assert stage.found_in([bad() for _ in range(MANY - 1)], ()) is None
        assert stage.found_in([good()], ()) is None


def test_clips_that_have_failed_before_say_nothing_about_the_stage():
    batch = [bad() for _ in range(2 * MANY)]
    assert new().found_in(batch, {each.clip_id for each in batch}) is None
