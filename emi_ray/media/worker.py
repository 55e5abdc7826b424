"""The child process of :class:`emi_ray.media.isolation.DecodeProcess`, which decodes clips.

The first message has the settings; the answer is ``{"ready": "yes"}``. Each further message is a
:class:`ClipSource`. It is answered by the packed row, by ``{"error": reason}`` if decoding raises an exception, or
by ``{"outage": reason}`` if the storage cannot be reached. The process ends when its standard input is closed, even
while decoding.
"""

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import av
import cv2

from emi_ray.config import MediaSettings
from emi_ray.media.clip import pack_clip
from emi_ray.media.decode import decode_clip
from emi_ray.media.messages import Message, read_message, write_message
from emi_ray.media.source import ClipSource
from emi_ray.schema import Need
from emi_ray.storage import StorageError

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]


def main() -> None:
    """Serve requests until standard input is closed."""
    # Native libraries may print to standard output, which would damage the messages.
    answers = _claim_stdout()
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.PANIC)
    questions: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, questions), daemon=True).start()
    settings = questions.get()
    media = MediaSettings.model_validate_json(settings["media"])
    # The limit is set before the first clip, after all libraries have been loaded and have reserved their memory.
    _limit_memory(settings["memory_limit_gb"])
    write_message(answers, {"ready": "yes"})
    while True:
        question = dict(questions.get())
        needs = frozenset(json.loads(question.pop("needs")))
        write_message(answers, _answer(ClipSource(**question), media, needs))


def _answer(source: ClipSource, media: MediaSettings, needs: frozenset[Need]) -> Message:
    try:
        return pack_clip(decode_clip(source, media, needs))
    except StorageError as error:
        return {"outage": str(error)}
    except MemoryError:
        return {"error": "it needs more memory than extraction.decode_memory_gb allows"}
    except Exception as error:  # noqa: BLE001 - an unforeseen error costs only this clip
        return {"error": f"{type(error).__name__}: {error}"}


def _limit_memory(limit_gb: float) -> None:
    """Limit the memory of this process to ``limit_gb`` (GiB) more than now, so that allocations fail in time.

    The limit is on address space (``RLIMIT_AS``). Libraries reserve more of it than they use, so what is reserved
    by now is added. Only Linux enforces such a limit and reports both sizes.
    """
    sizes = Path("/proc/self/statm")
    if resource is None or not sizes.exists():
        return
    reserved, used = (int(pages) * resource.getpagesize() for pages in sizes.read_text().split()[:2])
    limit = reserved - used + int(limit_gb * 2**30)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _claim_stdout() -> BinaryIO:
    """Keep standard output for answers; redirect the output of libraries to standard error."""
    # The descriptor is duplicated before it is redirected, so that only this process writes answers to the pipe.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _listen(stream: BinaryIO, questions: "queue.SimpleQueue[Message]") -> None:
    """Queue incoming messages. End the process as soon as the parent is gone, even while decoding."""
    try:
        while True:
            questions.put(read_message(stream))
    except EOFError:
        os._exit(0)


if __name__ == "__main__":
    main()
