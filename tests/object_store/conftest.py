"""An S3 server on this machine, and one that misbehaves as it is told."""

import http.server
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.server import DomainDispatcherApplication, ThreadedMotoServer, create_backend_app
from werkzeug.serving import make_server

from emi_ray import storage

OPTIONS = "scheme=http&region=us-east-1&endpoint_override="


@dataclass(frozen=True)
class Server:
    """A running server: its address, and ``uri("work")`` for a folder of its bucket."""

    address: str

    def uri(self, path: str, bucket: str = "bucket") -> str:
        return f"s3://{bucket}/{path}?{OPTIONS}{self.address}"

    def client(self):
        return boto3.client("s3", endpoint_url=f"http://{self.address}", region_name="us-east-1")

    def names(self) -> list[str]:
        found = self.client().list_objects_v2(Bucket="bucket").get("Contents", [])
        return [entry["Key"] for entry in found]


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    """A real S3 server with one bucket, ``bucket``."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    server = Server(f"{host}:{port}")
    server.client().create_bucket(Bucket="bucket")
    yield server
    running.stop()


@dataclass
class Faltering:
    """A real S3 server in front of which a door can be shut: it answers 503 while ``is_out``.

    ``once_seen`` is called once, after the server has told the size of a file and before it tells more.
    """

    application: Any
    is_out: bool = False
    address: str = ""
    once_seen: Callable[[], None] | None = None

    def __call__(self, environment: dict, start_response: Callable) -> Iterable[bytes]:
        if self.is_out:
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        answer = list(self.application(environment, start_response))
        if environment["REQUEST_METHOD"] == "HEAD" and self.once_seen is not None:
            replace, self.once_seen = self.once_seen, None
            replace()
        return answer

    def uri(self, path: str) -> str:
        return f"s3://bucket/{path}?{OPTIONS}{self.address}"


@pytest.fixture
def faltering() -> Iterator[Faltering]:
    """A server of its own with one bucket, ``bucket``."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    door = Faltering(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, door, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    door.address = f"127.0.0.1:{server.server_port}"
    boto3.client("s3", endpoint_url=f"http://{door.address}", region_name="us-east-1").create_bucket(
        Bucket="bucket"
    )
    yield door
    server.shutdown()


class Misbehaving(http.server.ThreadingHTTPServer):
    """Answers every request with ``status`` and ``body``, and counts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.status, self.body, self.requests = 503, b"", 0

    def uri(self, path: str) -> str:
        return f"s3://bucket/{path}?{OPTIONS}127.0.0.1:{self.server_port}"


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Misbehaving

    def answer(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def misbehaving(monkeypatch) -> Iterator[Misbehaving]:
    """A server that answers 503 until told otherwise, asked by clients with little patience."""
    monkeypatch.setattr(storage, "REACH_WITHIN_S", 1.0)
    monkeypatch.setattr(storage, "RETRIES", 1)
    server = Misbehaving()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    storage._ask.cache_clear()
    storage._s3.cache_clear()
