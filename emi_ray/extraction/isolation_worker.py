"""The child process of :class:`emi_ray.extraction.isolation.IsolatedProcess`: builds a tool and applies it to clips.

The first message is a function that builds the tool; the answer is its feature size or an error. Each further message
is a batch of clips; the answer is their attempts. The process ends when the pipe is closed, even during a batch.
"""

import os
import pickle
import queue
import sys
import threading
from multiprocessing.connection import Connection

from emi_ray.errors import EmiRayError
from emi_ray.extraction.batches import Batches, DeviceLostError


def main() -> None:
    """Serve requests until the parent process has ended."""
    pipe = Connection(int(sys.argv[1]))
    questions: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, questions), daemon=True).start()
    try:
        tool = pickle.loads(questions.get())()
    except Exception as error:  # noqa: BLE001 - sent to the parent, which ends the run with it
        known = error if isinstance(error, EmiRayError) else EmiRayError(f"{type(error).__name__}: {error}")
        pipe.send(known)
        return
    pipe.send(tool.feature_dim)
    batches = Batches(tool, sys.argv[2], has_device=False)
    while True:
        clips = pickle.loads(questions.get())
        try:
            answer: object = batches.run(clips)
        except DeviceLostError as error:
            answer = error
        pipe.send_bytes(pickle.dumps(answer, protocol=5))


def _listen(pipe: Connection, questions: "queue.SimpleQueue[bytes]") -> None:
    """Queue incoming messages. End the process as soon as the parent is gone, even during a batch."""
    try:
        while True:
            questions.put(pipe.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main()
