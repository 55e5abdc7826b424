"""Run an extractor in a child process, to find the clip that kills its process and lose only that clip.

This is the exception: nearly all clips are extracted in the actor itself (``batches.py``), without copies. Only after
an actor has died are the clips of its last batch processed here, one by one.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil

import emi_ray
from emi_ray.errors import EmiRayError
from emi_ray.extraction.batches import Attempt, DeviceLostError, Tool
from emi_ray.extraction.watchdog import BUILD_LIMIT_S, POLL_S, Limits
from emi_ray.media.clip import DecodedClip

Result = TypeVar("Result")

DEVICE_TRIES = 3
"""Number of fresh processes in which a batch is tried after the device was lost, before its clips are tried singly.
A single clip gets as many tries."""

MAX_LOST_IN_A_ROW = 3
"""When the device is lost with this many single clips in a row, the device itself is considered broken."""


class ChildDiedError(Exception):
    """The child process died or was stopped during a batch. The message states the cause."""


class IsolatedProcess(Generic[Result]):
    """A tool in a child process. A child that dies is replaced.

    Args:
        build: creates the tool; it is pickled and sent to the child.
        stage: name of the stage, for failures.
        limits: limits of one batch.
    """

    def __init__(self, build: Callable[[], Tool[Result]], stage: str, limits: Limits) -> None:
        self._build = build
        self._stage = stage
        self._limits = limits
        self._child: _Child | None = None
        self._lost_in_a_row = 0
        self.feature_dim: int | None = None
        """Feature size of the tool; None until the child has been started."""

    def run(self, clips: Sequence[DecodedClip], singly: bool) -> list[Attempt[Result]]:
        """Return one attempt for each clip.

        Args:
            singly: give the clips to the child one at a time. Otherwise they are one batch, which is repeated
                clip by clip if it kills the child.

        Raises:
            EmiRayError: the tool cannot be built, or the device is lost in every try.
        """
        # One clip per call, so that a death of the child has a single possible cause.
        if singly and len(clips) > 1:
            return [one for clip in clips for one in self.run([clip], singly)]
        started = time.perf_counter()
        try:
            attempts = self._ask(clips)
        except (ChildDiedError, DeviceLostError) as death:
            seconds = (time.perf_counter() - started) / len(clips)
            if len(clips) > 1:
                return [one.after(seconds) for one in self.run(clips, singly=True)]
            self._count(death)
            return [Attempt(clips[0].clip_id, failure=(self._stage, str(death)), seconds=seconds)]
        self._lost_in_a_row = 0
        return attempts

    def close(self) -> None:
        """End the child process. The next call starts a new one."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _ask(self, clips: Sequence[DecodedClip]) -> list[Attempt[Result]]:
        for tried in range(1, DEVICE_TRIES + 1):
            self._start()
            assert self._child is not None
            try:
                return self._child.ask(clips, self._limits)
            except DeviceLostError as error:
                self.close()
                if tried == DEVICE_TRIES:
                    reason = f"the device failed in {tried} fresh processes ({error})"
                    raise DeviceLostError(reason) from None
            # A death is not tried again here: run() finds the guilty clip by giving them one by one.
            except ChildDiedError:
                self.close()
                raise
        raise AssertionError

    def _start(self) -> None:
        if self._child is None or not self._child.is_alive():
            self.close()
            self._child = _Child(self._stage)
            self.feature_dim = self._child.build(self._build)

    def _count(self, death: Exception) -> None:
        self._lost_in_a_row = self._lost_in_a_row + 1 if isinstance(death, DeviceLostError) else 0
        if self._lost_in_a_row >= MAX_LOST_IN_A_ROW:
            raise EmiRayError(f"{death}, with {self._lost_in_a_row} clips one after another.")


class _Child:
    """One running child process."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        # Standard output is not used for answers, because libraries print to it.
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "emi_ray.extraction.isolation_worker",
                    str(theirs.fileno()),
                    stage,
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, *filter(None, sys.path)])},
            )
        self._pipe: Connection = Connection(ours.detach())
        self._seen = psutil.Process(self._process.pid)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def build(self, build: Callable[[], Tool[Result]]) -> int | None:
        """Let the child create the tool, and return the feature size of the tool.

        Raises:
            EmiRayError: the tool cannot be created.
        """
        try:
            built = self._exchange(pickle.dumps(build), Limits(BUILD_LIMIT_S, sys.maxsize))
        except ChildDiedError as death:
            raise EmiRayError(f"The extractor cannot be built: {death}.") from None
        if isinstance(built, Exception):
            raise built
        return built

    def ask(self, clips: Sequence[DecodedClip], limits: Limits) -> list[Attempt[Result]]:
        """Apply the tool to clips in the child process.

        Raises:
            ChildDiedError: the child died, or was stopped because it exceeded the limit of time or memory.
            DeviceLostError: the child can no longer use its device.
        """
        answer = self._exchange(pickle.dumps(list(clips), protocol=5), limits)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def _exchange(self, question: bytes, limits: Limits) -> Any:
        deadline = time.monotonic() + limits.seconds
        # The weights of the model are part of the memory that the child has before the batch, and do not count.
        allowed = self._memory() + limits.num_bytes
        try:
            self._pipe.send_bytes(question)
            # Time and memory of the child are checked from here, so that the cause of its death is known.
            while not self._pipe.poll(POLL_S):
                if time.monotonic() > deadline:
                    raise ChildDiedError(
                        f"{self._stage} took longer than {limits.seconds:g} s over this clip"
                    )
                if self._memory() > allowed:
                    gigabytes = limits.num_bytes / 2**30
                    raise ChildDiedError(
                        f"{self._stage} took more than {gigabytes:.3g} GiB of memory for this clip"
                    )
            return pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError, psutil.NoSuchProcess):
            raise ChildDiedError(self._cause_of_death()) from None

    def _memory(self) -> int:
        return int(self._seen.memory_info().rss) if self.is_alive() else 0

    def _cause_of_death(self) -> str:
        # Popen reports death by signal N as the exit code -N.
        code = self._process.wait()
        if code >= 0:
            return f"the process of {self._stage} ended over this clip with exit code {code}"
        name = signal.Signals(-code).name
        hint = (
            "killed, most often for lack of memory" if -code == signal.SIGKILL else "a crash in native code"
        )
        return f"the process of {self._stage} died over this clip of signal {-code}, {name} ({hint})"


_ROOT = str(Path(emi_ray.__file__).parents[1])
