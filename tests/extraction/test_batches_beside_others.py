"""Lack of memory while other threads of the process use models."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

from emi_ray.extraction.batches import RARE, Batches
from emi_ray.extractors.turns import Turn, leave_turn, turn_lent
from tests.extraction.test_batches import CLIPS, Tool


def test_what_does_not_fit_beside_another_batch_is_tried_alone_at_the_same_size():
    turn, held = Turn(), threading.Event()
    waiting, crowd = threading.Event(), []

    class Crowded:
        feature_dim = 1

        def __call__(self, clips):
            crowd.append((len(clips), held.is_set()))
            if held.is_set():
                raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
            return [clip.clip_id for clip in clips]

        def use_less_memory(self) -> bool:
            raise AssertionError("memory was there")

    def other() -> None:
        with turn:
            held.set()
            with turn_lent():
                waiting.set()
                time.sleep(0.3)
            held.clear()

    thread = threading.Thread(target=other)
    thread.start()
    assert waiting.wait(10)
    with turn:
        found = Batches(Crowded(), "vision").run(CLIPS)
    thread.join()
    assert [each.failure for each in found] == [None] * 8
    assert crowd == [(8, True), (8, False)]


class Beside(Tool):
    """Lacks memory as long as another thread has work on the device, as :func:`beside` has."""

    def __init__(self, steps: int = 1) -> None:
        super().__init__(room=8, steps=steps)
        self.is_crowded = False

    def __call__(self, clips):
        self.room = 0 if self.is_crowded else 8
        return super().__call__(clips)


@contextmanager
def beside(tool: Beside) -> Iterator[None]:
    """Another model of this process has work on the device until someone wants to be alone."""

    def other() -> None:
        with Turn(), turn_lent():
            tool.is_crowded = True
            is_there.set()
            time.sleep(0.2)
            tool.is_crowded = False

    is_there = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    assert is_there.wait(10)
    yield
    thread.join()


def test_only_if_batches_often_lack_memory_beside_other_models_do_their_steps_become_smaller():
    tool = Beside()
    batches = Batches(tool, "vision")
    for lacks, steps in ((True, 1), *[(False, 1)] * RARE, (True, 1), (False, 1), (True, 0)):
        with Turn(), beside(tool) if lacks else nullcontext():
            assert all(each.failure is None for each in batches.run(CLIPS))
        assert tool.steps == steps


def test_a_clip_is_given_up_only_after_it_was_tried_alone():
    tool = Beside(steps=0)
    batches = Batches(tool, "vision")
    for _ in range(3):
        with Turn(), beside(tool):
            assert [each.failure for each in batches.run(CLIPS[:1])] == [None]


def test_several_batches_that_lack_memory_at_the_same_time_are_one_coincidence():
    class Crowded(Tool):
        """Lacks memory in three batches that run at once."""

        def __call__(self, clips):
            with lock:
                self.tried.append(len(clips))
                is_crowded = len(self.tried) <= 3
            if is_crowded:
                leave_turn()
                all_run.wait(10)
                raise RuntimeError("CUDA out of memory")
            return [clip.clip_id for clip in clips]

    def run(number: int) -> None:
        with turn:
            done.extend(batches.run(CLIPS))

    tool, turn, lock, all_run, done = (
        Crowded(room=0, steps=1),
        Turn(),
        threading.Lock(),
        threading.Barrier(3),
        [],
    )
    batches = Batches(tool, "vision")
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(run, range(3)))
    assert [each.failure for each in done] == [None] * 24
    assert (tool.steps, batches.largest) == (1, None)
    assert tool.tried == [8] * 6
