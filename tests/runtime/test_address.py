"""Messages when no Ray session is available; fake heads answer as a cluster's head would."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import ray
from ray.core.generated import gcs_service_pb2 as messages
from ray.core.generated import gcs_service_pb2_grpc as services

from emi_ray.errors import UserError
from emi_ray.runtime import address as address_module
from emi_ray.runtime.address import answers, check_cluster, resolve


class FakeHead(services.NodeInfoGcsServiceServicer):
    def __init__(self, version: str = ray.__version__, refuses: bool = False) -> None:
        self.version, self.refuses = version, refuses

    def CheckAlive(self, request, context):
        if self.refuses:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing or incorrect")
        return messages.CheckAliveReply(ray_version=self.version)

    def GetAllNodeInfo(self, request, context):
        reply = messages.GetAllNodeInfoReply()
        reply.node_info_list.add(node_id=b"x" * 28)
        return reply


@contextmanager
def serving(head: FakeHead) -> Iterator[tuple[str, Callable[[], None]]]:
    server = grpc.server(ThreadPoolExecutor(2))
    services.add_NodeInfoGcsServiceServicer_to_server(head, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", lambda: server.stop(None).wait()
    finally:
        server.stop(None)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ray://host:10001", "Ray Client"),
        ("http://host:8265", "ray job submit"),
        ("host", "Give HOST:PORT"),
    ],
)
def test_an_address_that_cannot_serve_is_explained(address, says):
    with pytest.raises(UserError, match=says):
        resolve(address)


def test_a_closed_port_is_said_at_once():
    started = time.monotonic()
    with pytest.raises(UserError, match="--address 127.0.0.1:9: no Ray cluster answers there"):
        check_cluster("127.0.0.1:9")
    assert time.monotonic() - started < 10


def test_a_server_that_never_answers_is_said_within_the_limit():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match="no response within 1 s"):
            check_cluster(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=1)


def test_a_missing_token_is_said_as_such(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with serving(FakeHead(refuses=True)) as (address, _), pytest.raises(UserError, match="requires a token"):
        check_cluster(address)


def test_a_wrong_token_is_said_as_such(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with serving(FakeHead(refuses=True)) as (address, _), pytest.raises(UserError, match="refuses the token"):
        check_cluster(address)


def test_another_version_of_ray_is_named():
    with serving(FakeHead(version="1.0.0")) as (address, _), pytest.raises(UserError, match="Ray 1.0.0"):
        check_cluster(address)


def test_a_cluster_that_is_just_starting_is_waited_for(monkeypatch):
    from ray._private import services as here

    started = time.monotonic()
    ours = (b"x" * 28).hex()
    monkeypatch.setattr(here, "find_node_ids", lambda: {ours} if time.monotonic() > started + 1 else set())
    with serving(FakeHead()) as (address, _):
        check_cluster(address)
    assert time.monotonic() > started + 1


def test_a_machine_that_is_no_node_of_the_cluster_is_told_how_to_join(monkeypatch):
    monkeypatch.setattr(address_module, "NODE_WITHIN_S", 0.1)
    with serving(FakeHead()) as (address, _):
        with pytest.raises(UserError, match="this machine is not one of its 1 nodes"):
            check_cluster(address)
        with pytest.raises(UserError, match=f"named-thus: .* ray start --address={address}"):
            check_cluster(address, "named-thus")


def test_a_head_that_stops_no_longer_answers():
    with serving(FakeHead()) as (address, stop):
        assert answers(address)
        stop()
        assert not answers(address)


WATCHED = """
import sys, time
from emi_ray.runtime.head_watch import HeadWatch
watch = HeadWatch(sys.argv[1], silent_for_s=0.5)
watch.start()
print("watching", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    if sys.argv[2] == "heeds":
        watch.stop()
        sys.exit(3 if watch.explains(KeyboardInterrupt()) else 4)
    time.sleep(60)
"""


@pytest.mark.parametrize(("how", "ends"), [("heeds", 3), ("is stuck", 1)])
def test_the_loss_of_the_head_ends_what_works_under_it(how, ends, monkeypatch):
    patience_s = 0.5 if how == "is stuck" else 30  # a busy machine needs seconds to heed
    code = WATCHED.replace(
        "import sys, time",
        f"import sys, time\nimport emi_ray.runtime.head_watch as w\nw._WAY_OUT_S = {patience_s}",
    )
    with serving(FakeHead()) as (address, stop):
        process = subprocess.Popen(
            [sys.executable, "-c", code, address, how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "watching\n"
        stop()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == ends
    if ends == 1:
        assert errors.startswith(f"Failed: The head of the Ray cluster at {address} no longer answers")


@pytest.mark.slow
def test_a_local_session_looks_for_no_other_cluster_and_lets_nobody_in():
    """``/tmp/ray/ray_current_cluster`` is where ``ray start --head`` of anybody leaves its address."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # the paths of sockets may be 107 bytes long
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    code = """
import os, grpc, ray
from ray.core.generated import gcs_service_pb2 as m, gcs_service_pb2_grpc as s
from emi_ray.runtime import ray_session
for repeat in range(2):
    with ray_session():
        assert len(ray.nodes()) == 1 and ray.get(ray.remote(lambda: 1).remote()) == 1
        head = s.NodeInfoGcsServiceStub(grpc.insecure_channel(ray.get_runtime_context().gcs_address))
        try:
            head.CheckAlive(m.CheckAliveRequest(), timeout=30)
        except grpc.RpcError as error:
            print(error.code().name, "RAY_AUTH_TOKEN" in os.environ)
print("RAY_AUTH_TOKEN" in os.environ, os.path.exists(os.path.expanduser("~/.ray/auth_token")))
"""
    environment = {
        "PATH": "/usr/bin:/bin",
        "RAY_TMPDIR": str(folder),
        "HOME": str(folder),
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["UNAUTHENTICATED True"] * 2 + ["False False"]
