"""``ray_session()``: Ray on this machine, or a connection to a cluster."""

import logging
import os
import re
import secrets
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from emi_ray.errors import EmiRayError
from emi_ray.runtime.address import check_cluster, resolve
from emi_ray.runtime.head_watch import HeadLost, HeadWatch
from emi_ray.runtime.metrics import exporting_metrics
from emi_ray.runtime.nodes import CORES, READERS, await_nodes
from emi_ray.runtime.ray_errors import in_a_sentence

MIN_LOGICAL_CPUS = 8
"""Minimum number of logical CPUs. Many small pools need slots, not cores: pools that together reserve every CPU never
start (ray #44687)."""

STREAMING_STORE_BYTES_PER_CORE = 512 * 2**20
"""Size of the object store of a local session for streaming, which limits the memory of clips in flight."""

MEMORY_TRIES = 3
"""How often Ray repeats a task whose process it ended because the memory of its node ran out."""

_START_TRIES = 3

_LEAVE_WITHIN_S = 5.0
"""Time limit for disconnecting from a cluster whose head is lost, which may hang in native code."""

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


@contextmanager
def ray_session(
    address: str | None = None, num_gpus: int | None = None, streaming: bool = False
) -> Iterator[None]:
    """Connect to the cluster at ``address`` (or ``RAY_ADDRESS``), or start Ray on this machine.

    A local session has no dashboard, and ends with the ``with`` block; no process is left. It never connects to
    other clusters on this machine, and uses a token that nobody else knows. Inside an existing session, that one is
    used.

    Args:
        address: ``HOST:PORT``; ``auto``: the cluster that runs on this machine; ``local``: this machine, even if
            ``RAY_ADDRESS`` is set.
        num_gpus: GPUs of a local session; by default all.
        streaming: limit the object store of a local session to the size that streaming needs. By default it is a
            third of the memory, for data that many processes share.

    Raises:
        UserError: no cluster answers there, or it refuses access; known within 30 s.
        EmiRayError: the head of the cluster was lost within the block, or Ray failed in another way.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # C++ warnings would disturb progress bars
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # By default Ray repeats a task for ever whose process it ends because memory is short.
    os.environ.setdefault("RAY_task_oom_retries", str(MEMORY_TRIES))
    # Otherwise a thread that Ray Data leaves behind would connect to any cluster on this machine.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    import ray  # only now, because Ray reads the environment on import

    # The session belongs to whoever started it, and is therefore not ended here.
    if ray.is_initialized():
        session: AbstractContextManager[None] = nullcontext()
    elif address == "local":
        session = _local(num_gpus, streaming)
    else:
        session = _cluster(address)
    try:
        with session:
            yield
    except ray.exceptions.RayError as error:
        raise in_a_sentence(error) from error


@contextmanager
def _local(num_gpus: int | None, streaming: bool) -> Iterator[None]:
    import ray

    cores = os.cpu_count() or 1
    with _own_token():
        _start(
            address="local",
            # The number of physical cores is passed as a custom resource, because logical CPUs may exceed it.
            num_cpus=max(MIN_LOGICAL_CPUS, cores),
            num_gpus=num_gpus,
            resources={CORES: cores, READERS: cores},
            object_store_memory=cores * STREAMING_STORE_BYTES_PER_CORE if streaming else None,
            include_dashboard=False,
            **_QUIET,
        )
        try:
            with _quiet(), exporting_metrics():
                yield
        finally:
            ray.shutdown()


_TOO_SLOW = ("timed out during startup", "Timed out waiting for file")
"""Messages of Ray if its own processes do not start in time."""


def _start(**options: Any) -> None:
    """Call ``ray.init``, again if a busy machine needs longer than the 30 s that Ray allows its own processes.

    Raises:
        EmiRayError: Ray does not start in time.
    """
    import ray

    for _ in range(_START_TRIES):
        try:
            with _without_native_chatter():
                ray.init(**options)
            return
        except Exception as error:  # Ray raises nothing narrower
            # Other errors would only be repeated by another try.
            if not any(words in str(error) for words in _TOO_SLOW):
                raise
            ray.shutdown()
    raise EmiRayError(
        f"Ray did not start on this machine within 30 s, {_START_TRIES} times in a row: the machine is too busy, or "
        f"short of memory. Try again later."
    )


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    import ray

    resolved = resolve(address)
    check_cluster(resolved, address)
    with _without_native_chatter():
        ray.init(address=resolved, **_QUIET)
    watch = HeadWatch(resolved)
    watch.start()
    try:
        with _quiet(), exporting_metrics():
            await_nodes()
            yield
    except BaseException as error:
        if watch.explains(error):
            watch.is_lost = True
            raise HeadLost(resolved) from None
        raise
    finally:
        # The watch ends first: leaving the cluster must not look like the loss of its head.
        watch.stop()
        if watch.is_lost:
            _leave_the_dead()
        else:
            ray.shutdown()


def _leave_the_dead() -> None:
    """Disconnect from a cluster whose head is lost. Ray would notify the head, and wait for an answer."""
    import ray

    sys.excepthook = sys.__excepthook__  # Ray's hook would report uncaught errors to the head
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(_LEAVE_WITHIN_S)


@contextmanager
def _own_token() -> Iterator[None]:
    """Use a token for the local session of this process, so that no other user of the machine can use its ports.

    Ray opens its ports on every interface. The token is only in this process's environment, not in a file. If
    ``RAY_AUTH_MODE`` is set, nothing is changed.
    """
    if "RAY_AUTH_MODE" in os.environ:
        yield
        return
    # The environment is restored at the end, because the token is only for this session.
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    _authenticate({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    try:
        yield
    finally:
        _authenticate(before)


def _authenticate(environment: dict[str, str | None]) -> None:
    """Set environment variables, and make Ray read its authentication mode and token again, which it reads only
    once.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _without_native_chatter() -> Iterator[None]:
    """Hide messages of native code while Ray starts; failures are raised as exceptions."""
    # Native code writes to the descriptor, so replacing sys.stderr would have no effect.
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _ToOurLog(logging.Handler):
    """Passes Ray's warnings on to the logger ``emi_ray.ray``, which the log of the workspace includes."""

    def emit(self, record: logging.LogRecord) -> None:
        ours = logging.getLogger("emi_ray.ray")
        ours.handle(record)
        _tell_of_short_memory(record.getMessage())


def _to_our_log(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    """Log a raylet's warnings that Ray would print."""
    for line in data.get("lines", ()):
        logging.getLogger("emi_ray.ray").warning(line)
        _tell_of_short_memory(line)


_SHORT_MEMORY = re.compile(
    r"node running low on memory. Memory on the node \(IP: (\S+), .*? was ([\d.]+)GB used / ([\d.]+)GB"
)


def _tell_of_short_memory(message: str) -> None:
    """Warn the user if Ray says that it ended a process because memory ran out, since the command may wait long."""
    if found := _SHORT_MEMORY.search(message):
        logging.getLogger("emi_ray.runtime").warning(
            "The memory of node %s ran out (%s of %s GB used): Ray ended a process there, and may repeat its work a "
            "few times. Other programs may hold the memory.",
            *found.groups(),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Reserve the terminal for our progress bars and summaries; Ray's log files keep everything.

    After an error Ray stays silent, because its threads may still be running, and would print that they cannot
    continue.
    """
    from ray._private import worker

    logging.getLogger("emi_ray").addHandler(nowhere := logging.NullHandler())
    # Small corpora have fewer blocks than actors.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    forward = _ToOurLog(logging.WARNING)
    loggers = [
        logging.getLogger(name) for name in ("ray", "ray.data")
    ]  # other loggers of Ray propagate to the first
    terminals = [
        (handler, handler.level)
        for logger in loggers
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]
    for handler, _ in terminals:
        handler.setLevel(logging.CRITICAL + 1)
    for logger in loggers:
        logger.addHandler(forward)
    printing = worker.print_to_stdstream
    worker.print_to_stdstream = _to_our_log  # raylets' warnings are printed whatever the settings
    try:
        yield
        for handler, level in terminals:
            handler.setLevel(level)
    finally:
        worker.print_to_stdstream = printing
        for logger in loggers:
            logger.removeHandler(forward)
        logging.getLogger("emi_ray").removeHandler(nowhere)
