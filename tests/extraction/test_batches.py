import threading
import time
import weakref

import cv2
import numpy as np
import pytest

from emi_ray.errors import ClipError
from emi_ray.extraction.batches import SMALLER_STEPS_FIRST, Batches, DeviceLostError
from emi_ray.extraction.device_errors import is_device_lost, is_out_of_memory
from emi_ray.media.clip import DecodedClip

CLIPS = [DecodedClip(f"c{index}") for index in range(8)]


class Tool:
    """Fits ``room`` clips; works in smaller steps so many times."""

    feature_dim = 1

    def __init__(self, room: int, steps: int = 0, error: type[Exception] = RuntimeError) -> None:
        self.room, self.steps, self.error = room, steps, error
        self.tried: list[int] = []

    def __call__(self, clips):
        self.tried.append(len(clips))
        if len(clips) > self.room:
            raise self.error(f"CUDA out of memory. Tried to allocate {len(clips)}.5 GiB")
        return [clip.clip_id for clip in clips]

    def use_less_memory(self) -> bool:
        if not self.steps:
            return False
        self.steps, self.room = self.steps - 1, self.room * 2
        return True


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_batch_that_does_not_fit_is_halved_and_the_size_is_kept(error):
    batches = Batches(Tool(room=3, error=error), "vision")
    first = [each.result for each in batches.run(CLIPS)]
    second = [each.result for each in batches.run(CLIPS)]
    assert first == second == [clip.clip_id for clip in CLIPS]
    assert batches._tool.tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_smaller_steps_are_tried_before_fewer_clips():
    tool = Tool(room=2, steps=2)
    assert all(each.failure is None for each in Batches(tool, "vision").run(CLIPS))
    assert tool.tried == [8, 8, 8]


def test_a_clip_that_alone_does_not_fit_says_so():
    (found,) = Batches(Tool(room=0), "vision").run(CLIPS[:1])
    assert found.failure[0] == "vision"
    assert "alone does not fit into memory (RuntimeError: CUDA out of memory" in found.failure[1]


def test_steps_stay_of_use_to_later_batches_if_a_batch_does_not_fit_with_any_steps():
    class Long(Tool):
        """Keeps the inputs of all clips at once, so that smaller steps do not help."""

        reductions = 0

        def use_less_memory(self):
            self.reductions += 1
            return True

    tool = Long(room=1)
    batches = Batches(tool, "vision")
    batches.run(CLIPS)
    assert (tool.reductions, batches.largest) == (SMALLER_STEPS_FIRST, 1)


def test_clips_are_as_many_as_before_if_steps_were_the_cause():
    class Steps(Tool):
        """Fits 64 images at once; a clip has 75."""

        images = 512

        def __call__(self, clips):
            self.tried.append(len(clips))
            if min(self.images, 75 * len(clips)) > 64:
                raise RuntimeError("CUDA out of memory")
            return [clip.clip_id for clip in clips]

        def use_less_memory(self):
            self.images //= 2
            return True

    tool = Steps(room=0)
    batches = Batches(tool, "vision")
    assert all(each.failure is None for each in batches.run(CLIPS))
    assert (tool.images, batches.largest) == (64, 8)
    batches.run(CLIPS)
    assert tool.tried[-1] == 8


def test_an_error_that_may_have_another_cause_than_memory_is_not_blamed_on_the_clip():
    class Unsupported(Tool):
        def __call__(self, clips):
            raise RuntimeError("GET was unable to find an engine to execute this computation")

    attempts = Batches(Unsupported(room=0), "vision").run(CLIPS)
    assert all(each.is_unforeseen for each in attempts)
    assert not any(each.is_unforeseen for each in Batches(Tool(room=0), "vision").run(CLIPS))


def test_a_lost_device_is_no_failure_of_a_clip():
    class Poisoned(Tool):
        def __call__(self, clips):
            raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(DeviceLostError, match="device-side assert"):
        Batches(Poisoned(room=9), "vision").run(CLIPS)


def test_errors_are_told_apart_by_type_and_by_words():
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("no matter what"))
    assert is_out_of_memory(np.linalg.LinAlgError("out of memory")) is False
    assert is_device_lost(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    assert is_device_lost(torch.AcceleratorError("anything", 700))
    assert is_out_of_memory(RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"))
    assert is_out_of_memory(RuntimeError("GET was unable to find an engine to execute this computation"))
    assert is_out_of_memory(
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    )
    assert is_out_of_memory(
        cv2.error("alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes")
    )
    for lost in (
        "cuFFT error: CUFFT_INTERNAL_ERROR",
        "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`",
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "CUDA unknown error - this may be due to an incorrectly set up environment",
        "CUDA driver error: unknown error",
        "No CUDA GPUs are available",
    ):
        assert is_device_lost(RuntimeError(lost)), lost
    assert not is_device_lost(RuntimeError("shape mismatch"))
    assert not is_device_lost(RuntimeError("cannot normalise by hip width: division error"))
    assert not is_device_lost(RuntimeError("Error opening '/data/cuda/a.wav': System error."))
    assert not is_device_lost(ClipError("vision", "CUDA error in its title"))


def test_seconds_of_batches_that_overlap_are_counted_once():
    batches, barrier = Batches(Slow(), "vision"), threading.Barrier(2)
    found = []

    def run(clips):
        barrier.wait()
        found.extend(batches.run(clips))

    threads = [threading.Thread(target=run, args=(CLIPS[i : i + 4],)) for i in (0, 4)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.seconds for each in found) <= time.perf_counter() - started


class Slow:
    """Takes a while."""

    feature_dim = 1

    def __call__(self, clips):
        time.sleep(0.2)
        return clips

    def use_less_memory(self) -> bool:
        return False


def test_the_tensors_of_a_failed_batch_are_free_before_its_clips_are_repeated():
    class Array:
        """Stands for a tensor: it can be referred to weakly."""

    alive: list[weakref.ref] = []
    num_alive = []

    class Guilty(Tool):
        def __call__(self, clips):
            num_alive.append(sum(each() is not None for each in alive))
            values = Array()
            alive.append(weakref.ref(values))
            if CLIPS[3] in clips:
                raise ValueError("sizes of tensors must match")
            return super().__call__(clips)

    attempts = Batches(Guilty(room=8), "vision").run(CLIPS)
    assert [each.clip_id for each in attempts if each.failure] == ["c3"]
    assert num_alive == [0] * 9


def test_the_time_of_failed_tries_is_counted():
    class Slow(Tool):
        def __call__(self, clips):
            time.sleep(0.02 * len(clips))
            if CLIPS[1] in clips:
                raise ClipError("vision", "no")
            return super().__call__(clips)

    attempts = Batches(Slow(room=8), "vision").run(CLIPS[:4])
    assert [each.failure is None for each in attempts] == [True, False, True, True]
    assert all(each.seconds >= 0.04 for each in attempts)
