import faulthandler
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest

from emi_ray.errors import EmiRayError
from emi_ray.extraction.actors import Life
from emi_ray.extraction.extract_stage import ExtractorTool
from emi_ray.extraction.isolation import IsolatedProcess
from emi_ray.extraction.runner import Runner
from emi_ray.extraction.watchdog import Limits, Note
from emi_ray.extractors.turns import Turn, leave_turn, without_others
from emi_ray.media.clip import DecodedClip
from emi_ray.memory import total_memory
from tests.cluster.faulty import Faulty, FaultySettings
from tests.extraction.test_own import spec_of

LIMITS = Limits(5.0, 2**30)


def clips(*words: str) -> list[DecodedClip]:
    return [DecodedClip(f"c{index}", transcript=word) for index, word in enumerate(words)]


def test_a_child_process_finds_the_clip_that_crashes_it():
    child = IsolatedProcess(partial(ExtractorTool, spec_of(Faulty, FaultySettings())), "text", LIMITS)
    good, crash, other = child.run(clips("one", "segfault", "three"), singly=False)
    child.close()
    assert good.failure is None
    assert other.failure is None
    assert child.feature_dim == 2
    assert crash.failure[0] == "text"
    assert "SIGSEGV" in crash.failure[1]


def test_a_device_that_fails_with_clip_after_clip_ends_the_run(monkeypatch):
    monkeypatch.setattr("emi_ray.extraction.isolation.DEVICE_TRIES", 1)
    monkeypatch.setattr("emi_ray.extraction.isolation.MAX_LOST_IN_A_ROW", 2)
    child = IsolatedProcess(partial(ExtractorTool, spec_of(Faulty, FaultySettings())), "text", LIMITS)
    with pytest.raises(EmiRayError, match="illegal memory access.* 2 clips one after another"):
        child.run(clips("poison", "poison"), singly=True)


def test_what_a_dead_actor_had_in_hand_is_known_to_its_successor():
    owner = f"test-{os.getpid()}-{time.monotonic_ns()}"
    child = os.fork()
    if not child:
        with Note(owner, "text").holding(["c1"]):
            os._exit(1)
    os.waitpid(child, 0)
    runner = Runner(
        partial(ExtractorTool, spec_of(Faulty, FaultySettings())), "text", LIMITS, life=Life(owner)
    )
    first, second = runner.run(clips("one", "segfault"))
    assert first.failure is None
    assert "SIGSEGV" in second.failure[1]
    assert Note(owner, "text").left_behind() == {"c1"}


def test_a_clip_that_killed_a_process_stays_known_while_another_batch_of_its_block_kills_the_next():
    """Ray repeats the whole block, from its first batch on."""
    owner = f"test-{os.getpid()}-{time.monotonic_ns()}"
    first, second = clips("segfault", "two"), [DecodedClip("c2", transcript="segfault")]

    def processed_here(batches: list[list[DecodedClip]]) -> int:
        """Run batches in a process of the actor that may die, and return its exit code."""
        child = os.fork()
        if not child:
            faulthandler.disable()  # it would print where the process crashes
            faulty = partial(ExtractorTool, spec_of(Faulty, FaultySettings()))
            runner = Runner(faulty, "text", LIMITS, life=Life(owner, was_restarted=True))
            for batch in batches:
                runner.run(batch)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    Note(owner, "text").suspect({"unknown"})  # so that the first process is not wary
    assert processed_here([first, second]) == -signal.SIGSEGV
    assert processed_here([first, second]) == -signal.SIGSEGV
    assert processed_here([first, second]) == 0
    assert Note(owner, "text").left_behind() == {"c0", "c2", "unknown"}


def test_a_stage_is_not_wary_if_another_stage_of_its_process_has_left_a_note():
    owner = f"test-{os.getpid()}-{time.monotonic_ns()}"
    assert not Note(owner, "text").is_any_left()
    Note(owner, "audio").suspect({"c1"})
    assert Note(owner, "text").is_any_left()


def test_a_batch_among_others_has_more_time_but_no_more_memory_than_the_machine():
    one = Limits(10.0, 2**20)
    assert one.among(1) == one
    assert one.among(8) == Limits(20.0, 8 * 2**20)
    assert Limits(10.0, 2**60).among(8).num_bytes == 2**60
    half = total_memory() // 2
    assert half < Limits(10.0, half).among(8).num_bytes < total_memory()


class OnSmallDevice:
    """A tool on a device of 9 GB: each process keeps its weights, .5 GB and .1 GB for each clip at once."""

    feature_dim = 2

    def __init__(self, folder: str, weights: float) -> None:
        self._folder, self._weights, self._held = Path(folder), weights, 0.0
        self._need(weights)

    def __call__(self, clips: Sequence[DecodedClip]) -> list[int]:
        self._need(self._weights + 0.5 + 0.1 * len(clips))
        return [1 for _ in clips]

    def use_less_memory(self) -> bool:
        return False

    def __del__(self) -> None:
        (self._folder / str(os.getpid())).unlink(missing_ok=True)

    def _need(self, gigabytes: float) -> None:
        alive = [path for path in self._folder.iterdir() if psutil.pid_exists(int(path.name))]
        used = sum(float(path.read_text()) for path in alive if path.name != str(os.getpid()))
        if used + max(gigabytes, self._held) > 9:
            raise MemoryError("device out of memory")
        self._held = max(gigabytes, self._held)
        (self._folder / str(os.getpid())).write_text(str(self._held))


@pytest.mark.parametrize("weights", [2.5, 6.0])
def test_the_child_process_of_suspects_has_the_memory_of_the_device(tmp_path, weights):
    owner = f"test-{os.getpid()}-{time.monotonic_ns()}"
    Note(owner, "text").suspect({f"c{index}" for index in range(32)})
    life = Life(owner, was_restarted=True)
    runner = Runner(
        partial(OnSmallDevice, str(tmp_path), weights), "text", Limits(60.0, 2**33), 32, life=life
    )
    others = [DecodedClip(f"other{index}", transcript="word") for index in range(32)]
    suspects = clips(*["word"] * 32)
    assert all(found.failure is None for found in runner.run(others))
    assert all(found.failure is None for found in runner.run(suspects))
    assert all(found.failure is None for found in runner.run(others))
    assert not Note(owner, "text").left_behind()


def test_what_several_threads_of_an_actor_have_in_hand_is_written_down_together():
    owner = f"test-{os.getpid()}-{time.monotonic_ns()}"
    note = Note(owner, "text")
    first, second = note.holding(["c1"]), note.holding(["c2"])
    first.__enter__()
    second.__enter__()
    assert Note(owner, "text").left_behind() == {"c1", "c2"}
    first.__exit__(None, None, None)
    assert Note(owner, "text").left_behind() == {"c2"}
    second.__exit__(None, None, None)
    assert not Note(owner, "text").left_behind()


def test_a_model_that_does_not_fit_is_built_again_and_then_reported_with_its_gpu():
    lacks = [RuntimeError("CUDA out of memory"), None, *[RuntimeError("CUDA out of memory")] * 2]

    def build() -> ExtractorTool:
        if lack := lacks.pop(0):
            raise lack
        return ExtractorTool(spec_of(Faulty, FaultySettings()))

    def runner() -> Runner:
        life = Life(f"test-{time.monotonic_ns()}", node="10.0.0.1", gpus=("3",))
        return Runner(build, "text", LIMITS, life=life)

    assert runner().run(clips("one"))[0].failure is None
    with pytest.raises(EmiRayError, match=r"GPU 3 of node 10\.0\.0\.1.*extraction\.stages\.text\.num_gpus=0"):
        runner().run(clips("one"))


def test_models_of_one_process_are_built_one_after_another_and_once():
    """While one is loaded, transformers changes the default dtype of the whole process."""
    being_built, most = [], []

    class Slow(ExtractorTool):
        def __init__(self) -> None:
            being_built.append(self)
            most.append(len(being_built))
            time.sleep(0.1)
            super().__init__(spec_of(Faulty, FaultySettings()))
            being_built.remove(self)

    one, other = (Runner(Slow, "text", LIMITS, life=Life(f"test-{time.monotonic_ns()}")) for _ in range(2))
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(runner.run, clips("one")) for runner in (one, one, other)]
        dim = pool.submit(lambda: one.feature_dim)
        assert all(each.result()[0].failure is None for each in done)
    assert dim.result() == 2
    assert most == [1, 1]


def test_models_that_do_not_fit_at_first_are_built_when_no_other_is_used():
    """A thread whose model does not fit waits for those of other stages, which may wait to build theirs."""
    both_hold, built = threading.Barrier(2), []

    class Late(ExtractorTool):
        """Fits into memory at the second try."""

        def __init__(self, stage: str) -> None:
            built.append(stage)
            if built.count(stage) < 2:
                raise MemoryError("no room yet")
            super().__init__(spec_of(Faulty, FaultySettings()))

    def work(stage: str) -> None:
        runner = Runner(partial(Late, stage), stage, LIMITS)
        with Turn():
            both_hold.wait(10)
            assert runner.run(clips("one"))[0].failure is None

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(work, stage) for stage in ("vision", "audio")]:
            done.result(timeout=20)
    assert sorted(built) == ["audio", "audio", "vision", "vision"]


def test_a_model_that_does_not_fit_even_alone_is_named_with_the_remedy():
    def build() -> ExtractorTool:
        raise MemoryError("16 GiB are missing")

    with pytest.raises(EmiRayError, match=r"not fit into memory.*16 GiB.*stages\.vision\.num_gpus=0"), Turn():
        Runner(build, "vision", LIMITS).run(clips("one"))


def test_the_time_limit_of_a_batch_does_not_count_its_wait_for_others():
    """A batch that is repeated clip by clip waits for a thread that is alone. Its process would be killed."""
    owner = f"test-{os.getpid()}-{time.monotonic_ns()}"
    child = os.fork()
    if not child:
        faulthandler.disable()
        failed = threading.Event()

        class Slow:
            feature_dim = 1

            def __call__(self, clips):
                if len(clips) > 1:
                    leave_turn()
                    failed.set()
                    time.sleep(0.2)  # until the other thread waits to be alone
                    raise ValueError("one of these clips is faulty")
                return [0] * len(clips)

            def use_less_memory(self) -> bool:
                return False

        def other() -> None:
            failed.wait(10)
            with Turn(), without_others():
                time.sleep(1.5)

        thread = threading.Thread(target=other)
        thread.start()
        runner = Runner(Slow, "vision", Limits(0.5, 2**40), life=Life(owner))
        with Turn():
            attempts = runner.run(clips("one", "two"))
        thread.join()
        os._exit(0 if [each.failure for each in attempts] == [None, None] else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
