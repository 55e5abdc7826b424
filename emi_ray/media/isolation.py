"""Decode in a child process, so that a clip that crashes, exhausts memory or never ends costs only itself."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import emi_ray
from emi_ray.config import MediaSettings
from emi_ray.errors import EmiRayError
from emi_ray.media.clip import DecodedClip, pack_clip, unpack_clip
from emi_ray.media.detection import build_finder
from emi_ray.media.messages import Message, read_message, write_message
from emi_ray.media.source import ClipSource
from emi_ray.schema import NEEDS, Need
from emi_ray.storage import StorageError

STARTUP_LIMIT_S = 120.0

FROM_THE_TABLE: frozenset[Need] = frozenset({"transcript", "video"})
"""Inputs that are columns of the corpus table: transcripts, and paths of videos. No file is read for them."""

SOUND: frozenset[Need] = frozenset({"waveform"})
PICTURES: frozenset[Need] = frozenset({"frames", "faces"})


class DecodeProcess:
    """Decodes clips one after another in a child process. A child that dies is replaced. A clip for which no
    file is read needs no child process.

    If a clip kills the child or takes too long, audio and video are tried once more separately, so that one bad
    stream does not cost the other. A clip with a single stream is tried once more too, unless it took too long,
    because the child may have been killed for another reason, for example when the machine ran out of memory.

    Args:
        time_limit_s: seconds for each attempt; in the worst case a clip takes four times as long.
        memory_limit_gb: memory of the child in GiB; enforced only on Linux.
    """

    def __init__(self, media: MediaSettings, time_limit_s: float, memory_limit_gb: float = 1.75) -> None:
        self._media = media
        self._time_limit_s = time_limit_s
        self._memory_limit_gb = memory_limit_gb
        self._child: _Child | None = None

    def start(self) -> "_Child":
        """Start the child process unless it runs; called early, so that the first clip does not wait for it."""
        if self._child is None or not self._child.is_alive():
            self.close()
            self._child = _Child(self._media, self._memory_limit_gb)
        return self._child

    def decode(self, source: ClipSource, needs: frozenset[Need]) -> dict[str, Any]:
        """Return the clip as a row of ``pack_clip``. Inputs that could not be decoded are in ``failed``.

        Raises:
            UserError: the face detector that the settings ask for is not available.
            StorageError: the storage cannot be reached.
            EmiRayError: the child process cannot be started.
        """
        if needs <= FROM_THE_TABLE:
            from emi_ray.media.decode import decode_clip  # imports PyAV

            return pack_clip(decode_clip(source, self._media, needs))
        # A missing face detector is found here, in the parent, so that it is reported as the user's mistake.
        if "faces" in needs:
            build_finder(self._media.faces)
        try:
            return self._attempt(source, needs)
        except _DecodingDiedError as death:
            return self._salvage(source, needs, death)

    def close(self) -> None:
        """End the child process. The next ``decode`` starts a new one."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> "DecodeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attempt(self, source: ClipSource, needs: frozenset[Need]) -> dict[str, Any]:
        child = self.start()
        try:
            return child.decode(source, needs, self._time_limit_s)
        except _DecodingDiedError:
            self.close()
            raise

    def _salvage(
        self, source: ClipSource, needs: frozenset[Need], first: "_DecodingDiedError"
    ) -> dict[str, Any]:
        """Decode audio, video and the rest separately. Whatever kills the child again is marked as failed."""
        decoded = DecodedClip(source.clip_id)
        parts = [part for part in (needs - SOUND - PICTURES, needs & SOUND, needs & PICTURES) if part]
        # A second try of the same single part could only have the same result.
        if len(parts) == 1 and not first.may_be_chance:
            return pack_clip(_without(decoded, parts[0], str(first)))
        for part in parts:
            try:
                decoded = _joined(decoded, unpack_clip(self._attempt(source, part)))
            except _DecodingDiedError as death:
                decoded = _without(decoded, part, str(death))
        return pack_clip(decoded)


class _DecodingDiedError(Exception):
    """The child died while decoding a clip; the message states how.

    Attributes:
        may_be_chance: whether the cause may be something else than the clip.
    """

    def __init__(self, reason: str, may_be_chance: bool = False) -> None:
        super().__init__(reason)
        self.may_be_chance = may_be_chance


class _Child:
    """A running child process. Its start is awaited only when it gets the first clip."""

    def __init__(self, media: MediaSettings, memory_limit_gb: float) -> None:
        root = str(Path(emi_ray.__file__).parents[1])
        inherited = os.environ.get("PYTHONPATH")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "emi_ray.media.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([root, inherited] if inherited else [root])},
        )
        self._settings = {"media": media.model_dump_json(), "memory_limit_gb": memory_limit_gb}
        self._is_ready = False

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def decode(self, source: ClipSource, needs: frozenset[Need], time_limit_s: float) -> dict[str, Any]:
        """Decode one clip.

        Raises:
            _DecodingDiedError: the child crashed, was killed or exceeded the time limit, or decoding raised
                an unforeseen exception.
            StorageError: the storage cannot be reached.
            EmiRayError: the child did not start.
        """
        self._await_start()
        try:
            answer = self._ask({**vars(source), "needs": json.dumps(sorted(needs))}, time_limit_s)
        except TimeoutError:
            raise _DecodingDiedError(f"decoding took longer than {time_limit_s:g} s") from None
        except EOFError:
            raise _DecodingDiedError(f"decoding crashed ({self._cause_of_death()})", True) from None
        if "outage" in answer:
            raise StorageError(answer["outage"])
        if "error" in answer:
            raise _DecodingDiedError(f"decoding failed ({answer['error']})")
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                cast(BinaryIO, pipe).close()

    def _await_start(self) -> None:
        if self._is_ready:
            return
        try:
            self._ask(self._settings, STARTUP_LIMIT_S)
        except TimeoutError:
            reason = f"it is not ready after {STARTUP_LIMIT_S:g} s"
        except EOFError:
            reason = self._cause_of_death()
        else:
            self._is_ready = True
            return
        raise EmiRayError(f"The process that decodes media cannot be started: {reason}.")

    def _ask(self, question: Message, time_limit_s: float) -> dict[str, Any]:
        """Send a message and wait for its answer.

        Raises:
            TimeoutError: there was no answer in time; the child has been killed.
            EOFError: the child died.
        """
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            self._process.kill()

        # Killing the child also ends the blocking read from its pipe, which itself has no time limit.
        timer = threading.Timer(time_limit_s, stop)
        timer.start()
        try:
            write_message(cast(BinaryIO, self._process.stdin), question)
            answer: dict[str, Any] | None = read_message(cast(BinaryIO, self._process.stdout))
        except (BrokenPipeError, EOFError):
            answer = None
        finally:
            timer.cancel()
            # After this, is_late can no longer change: a timer that has fired has also killed the child.
            timer.join()
        # An answer that came at the same moment as the limit is dropped, because the child is dead by now.
        if is_late.is_set():
            raise TimeoutError
        if answer is None:
            raise EOFError
        return answer

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        # A native allocation that fails under the limit of address space usually ends in abort().
        hint = ", most often for lack of memory" if -code in (signal.SIGKILL, signal.SIGABRT) else ""
        return f"signal {-code}, {name}{hint}"


def _without(clip: DecodedClip, needs: frozenset[Need], reason: str) -> DecodedClip:
    return replace(clip, failed={**clip.failed, **dict.fromkeys(sorted(needs), reason)})


def _joined(clip: DecodedClip, part: DecodedClip) -> DecodedClip:
    """Return ``clip`` with the inputs of ``part``, which was decoded separately."""
    found = {name: getattr(part, name) for name in NEEDS if getattr(part, name) is not None}
    return replace(
        clip,
        missing={**clip.missing, **part.missing},
        failed={**clip.failed, **part.failed},
        notes={**clip.notes, **part.notes},
        **found,
    )
