"""The child process of :class:`emi_ray.media.isolation.DecodeProcess`: decodes clips and does nothing else.

First comes the settings message, answered by ``{"ready": "yes"}``; then one :class:`ClipSource` a message,
each answered by its packed row, by ``{"error": why}`` where decoding raises, or by ``{"outage": why}`` where storage
is out of reach. The process ends when its
standard input does, whatever it is doing.
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
    """Serve until standard input ends."""
    answers = _claim_stdout()
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.PANIC)
    questions: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, questions), daemon=True).start()
    settings = questions.get()
    media = MediaSettings.model_validate_json(settings["media"])
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
    except Exception as error:  # noqa: BLE001 - what nobody foresaw about this file costs only its clip
        return {"error": f"{type(error).__name__}: {error}"}


def _limit_memory(limit_gb: float) -> None:
    """Have the operating system refuse memory beyond ``limit_gb`` (2^30 bytes), so that allocations fail in time.

    What is limited is address space (``RLIMIT_AS``), of which libraries reserve more than they use: what they have
    reserved by now is added. Only Linux enforces such a limit and tells both sizes.
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
    """Keep standard output for answers; whatever a library prints there goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _listen(stream: BinaryIO, questions: "queue.SimpleQueue[Message]") -> None:
    """Pass messages on; once the parent is gone, end the process even in the middle of a clip."""
    try:
        while True:
            questions.put(read_message(stream))
    except EOFError:
        os._exit(0)


if __name__ == "__main__":
    main()
