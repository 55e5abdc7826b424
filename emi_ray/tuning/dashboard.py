"""The command ``dashboard``: optuna-dashboard for a study and TensorBoard for runs, served on this machine."""

import io
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pandas as pd

from emi_ray.errors import EmiRayError, UserError, choices
from emi_ray.results.runs import HISTORY
from emi_ray.results.studies import study_folder
from emi_ray.tuning.storage import JOURNAL, open_storage
from emi_ray.workspace import Workspace

HOST = "127.0.0.1"

_REFRESH_EVERY_S = 10.0
_PLACES = 100
_NOT_CURVES = ("stage", "epoch")

Say = Callable[[str], None]


def serve(
    workspace: Workspace,
    study: str | None,
    port: int,
    storage: str | None,
    address: str | None,
    say: Say,
) -> None:
    """Serve both dashboards until Ctrl-C. Runs that are trained in the meantime appear in TensorBoard.

    Args:
        workspace: holds the study and the runs.
        study: name of the study; None selects the one that changed last. Without any study, only TensorBoard runs.
        port: first port to try.
        storage: URL of the study's database; None for a study with a journal in the workspace.
        address: address of a Ray cluster, whose own dashboard is then printed, too.
        say: prints a line for the user.

    Raises:
        UserError: there is no such study, or no free port.
        EmiRayError: one of the two servers stopped unexpectedly.
    """
    # Raises an error if there is no workspace.
    workspace.config()
    name = None if storage else find_study(workspace, study)
    with tempfile.TemporaryDirectory(prefix="emi-ray-tensorboard-") as folder:
        events = EventFiles(workspace, Path(folder))
        events.refresh()
        with _children() as children:
            if name is not None or storage is not None:
                first = free_port(port)
                children["optuna-dashboard"] = serve_study(workspace, name or "", storage, first)
                say(f"Study {name or 'database'}: http://{HOST}:{first}/dashboard")
                # The server binds its port a little later, so free_port would still return the same one.
                port = first + 1
            second = free_port(port)
            children["TensorBoard"] = serve_events(Path(folder), second)
            say(f"Runs, in TensorBoard: http://{HOST}:{second}/")
            ray_url = _ray_dashboard(address or os.environ.get("RAY_ADDRESS"))
            say(f"Ray cluster: {ray_url}" if ray_url else "No Ray cluster was named (--address).")
            say("Press Ctrl-C to stop both.")
            _wait(children, events)


def find_study(workspace: Workspace, study: str | None) -> str | None:
    """Return the name of a study with a journal in the workspace: ``study``, or the one that changed last.

    Raises:
        UserError: there is no study of that name.
    """
    names = [name for name in workspace.folders("studies") if workspace.exists(_journal(name))]
    if study is not None and study not in names:
        hint = choices(study, names) if names else "it has no studies yet; start one with emi-ray tune."
        raise UserError(f"There is no study '{study}' in {workspace.root}: {hint}")
    if study is not None or not names:
        return study
    return max(names, key=lambda name: _changed(workspace, _journal(name)))


@dataclass
class EventFiles:
    """Event files of TensorBoard, written from every ``history.csv`` of a workspace."""

    workspace: Workspace
    folder: Path
    _seen: dict[str, int] = field(default_factory=dict)

    def refresh(self) -> int:
        """Write the files of runs that are new or have changed; returns their number."""
        written = 0
        for path in self.workspace.files("runs", recursive=True):
            if not path.endswith(f"/{HISTORY}"):
                continue
            changed = _changed(self.workspace, path)
            if self._seen.get(path) != changed:
                self._write(path)
                self._seen[path] = changed
                written += 1
        return written

    def _write(self, path: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        history = pd.read_csv(io.BytesIO(self.workspace.read_bytes(path)))
        run = path.removeprefix("runs/").removesuffix(f"/{HISTORY}")
        # TensorBoard reads all files of a folder and would draw earlier curves as well.
        for old in (self.folder / run).glob("events.out.*"):
            old.unlink()
        with SummaryWriter(str(self.folder / run)) as writer:
            for row in history.to_dict("records"):
                for name in history.columns.drop(list(_NOT_CURVES)):
                    if pd.notna(row[name]):
                        writer.add_scalar(f"{name}/{row['stage']}", float(row[name]), int(row["epoch"]))


def serve_study(workspace: Workspace, study: str, storage: str | None, port: int) -> Any:
    """Start optuna-dashboard in a process of its own."""
    arguments = (workspace, study, storage, port)
    # A forked process would inherit locks that threads of Arrow hold.
    process = multiprocessing.get_context("spawn").Process(target=_serve_study, args=arguments, daemon=True)
    process.start()
    return process


def serve_events(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start TensorBoard in a process of its own."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", HOST]
    command += ["--port", str(port), "--reload_interval", "5", "--load_fast=false"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def free_port(first: int) -> int:
    """Return the first free port from ``first`` upwards.

    Raises:
        UserError: a hundred ports in a row are in use.
    """
    for port in range(first, min(first + _PLACES, 65536)):
        with socket.socket() as candidate:
            # Without it, the port of a server that has just ended counts as used for a minute (TIME_WAIT).
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((HOST, port))
            except OSError:
                continue
            return port
    raise UserError(f"--port {first}: this and the next {_PLACES - 1} ports are in use; choose another.")


def _serve_study(workspace: Workspace, study: str, storage: str | None, port: int) -> None:
    from optuna_dashboard import wsgi

    logging.getLogger("optuna").setLevel(logging.ERROR)
    # Storage objects hold locks and connections, so the process opens its own.
    app = wsgi(open_storage(workspace, study, storage))
    server = make_server(HOST, port, app, server_class=_Server, handler_class=_Quiet)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    """A server with one thread per request, because a page sends many requests at once."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Do not log single requests."""


@contextmanager
def _children() -> Iterator[dict[str, Any]]:
    """Yield a dictionary of child processes, which are terminated when the block ends or on SIGTERM."""
    children: dict[str, Any] = {}
    # SIGTERM becomes KeyboardInterrupt, so that the children are ended here too.
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield children
    finally:
        signal.signal(signal.SIGTERM, earlier)
        for child in children.values():
            child.terminate()
        for child in children.values():
            # One child is a multiprocessing.Process, the other a subprocess.Popen.
            child.join() if hasattr(child, "join") else child.wait()


def _wait(children: dict[str, Any], events: EventFiles) -> None:
    try:
        while True:
            for name, child in children.items():
                code = child.exitcode if hasattr(child, "exitcode") else child.poll()
                if code is not None:
                    raise EmiRayError(f"{name} stopped unexpectedly (exit code {code}).")
            time.sleep(_REFRESH_EVERY_S)
            events.refresh()
    except KeyboardInterrupt:
        return


def _ray_dashboard(address: str | None) -> str | None:
    """Return the URL of a cluster's dashboard; None if no address is given or the cluster has no dashboard."""
    if address is None:
        return None
    import ray

    from emi_ray.runtime import ray_session

    with ray_session(address):
        url = ray.init(ignore_reinit_error=True, log_to_driver=False).dashboard_url
    return f"http://{url}" if url else None


def _journal(study: str) -> str:
    return f"{study_folder(study)}/{JOURNAL}"


def _changed(workspace: Workspace, path: str) -> int:
    return int(workspace.filesystem.get_file_info(workspace.path(path)).mtime_ns or 0)
