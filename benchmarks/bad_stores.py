"""Run every command against object stores that do not work, and show how long each takes to say so.

    python benchmarks/bad_stores.py
    python benchmarks/bad_stores.py --stores hanging missing-bucket --verbs init status

Each command is a process of its own, start-up included. ``hanging`` accepts connections and never answers,
``closed-port`` refuses them, ``missing-bucket`` is a real S3 server without that bucket, ``wrong-key`` refuses the
signature, and ``outage`` is a real S3 server that answers 503 during the first 20 s of the command and then works:
its commands should end as if nothing had happened. The others should end with one sentence in 30 s; with exit code 2
if the user must change the name of the bucket or the key, else 1.
"""

import argparse
import csv
import http.server
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

OUTAGE_S = 20.0
LIMIT_S = 600
"""A command that takes longer is ended, with exit code 124."""
EMI_RAY = (sys.executable, "-m", "emi_ray")
QUICK = ("training.epochs=1", "encoders.text.hidden=16")
SPACE = str(Path(__file__).parents[1] / "search_spaces" / "text.yaml")
VERBS: Mapping[str, tuple[str, ...]] = {
    "init": ("--corpus", "table", "--source", "{folder}/clips.csv"),
    "extract": ("--modalities", "text"),
    "train": ("text", "--seed", "2", *QUICK),
    "tune": (
        "text",
        "--space",
        SPACE,
        "--trials",
        "1",
        "--folds",
        "1",
        "--storage",
        "sqlite:///{folder}/study.db",
    ),
    "evaluate": ("text/1",),
    "predict": ("text/1", "--to", "{folder}/predictions.csv"),
    "report": (),
    "status": (),
    "doctor": (),
    "compare": ("text/1", "text/3"),
    "run": ("text", "--corpus", "table", "--source", "{folder}/clips.csv", "--seed", "1", *QUICK),
}
SECRETS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}
FORBIDDEN = (
    b"<Error><Code>SignatureDoesNotMatch</Code><Message>The signature does not match</Message></Error>"
)


class Door:
    """A real S3 server that answers 503 until ``opens_at``."""

    def __init__(self) -> None:
        self.application: Any = DomainDispatcherApplication(create_backend_app)
        self.opens_at = 0.0

    def __call__(self, environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if time.monotonic() < self.opens_at:
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        answer: Iterable[bytes] = self.application(environment, start_response)
        return answer


class _Silent(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        return


class _Forbidden(http.server.BaseHTTPRequestHandler):
    def answer(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", str(len(FORBIDDEN)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(FORBIDDEN)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def stores() -> Iterator[tuple[Door, dict[str, str]]]:
    """Start the servers; give the working one, and the URI of a workspace by store."""
    os.environ.update(SECRETS)
    door = Door()
    working = make_server("127.0.0.1", 0, door, threaded=True, request_handler=_Silent)
    refusing = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Forbidden)
    for server in (working, refusing):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{working.server_port}"
    boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket="bucket")
    with socket.socket() as hanging, socket.socket() as closed:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(64)
        closed.bind(("127.0.0.1", 0))
        ports = {
            "hanging": hanging.getsockname()[1],
            "closed-port": closed.getsockname()[1],
            "missing-bucket": working.server_port,
            "wrong-key": refusing.server_port,
            "outage": working.server_port,
        }
        yield (
            door,
            {
                name: _uri("none" if name == "missing-bucket" else "bucket", port)
                for name, port in ports.items()
            },
        )
    for server in (working, refusing):
        server.shutdown()


def _uri(bucket: str, port: int) -> str:
    return f"s3://{bucket}/w?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{port}"


def _write_corpus(folder: Path) -> None:
    words = ["good", "bad", "day", "sad", "what", "hello", "never"]
    with (folder / "clips.csv").open("w") as stream:
        rows = csv.writer(stream)
        rows.writerow(["clip_id", "split", "transcript", "Joy", "Fear"])
        for i in range(60):
            text = " ".join(words[(i * k) % 7] for k in range(1, 7))
            rows.writerow(
                [
                    f"{i:03}",
                    ("val", "train", "train", "test", "train")[i % 5],
                    text,
                    (i * 37 % 100) / 100,
                    (i * 11 % 100) / 100,
                ]
            )


def _command(verb: str, uri: str, folder: Path) -> list[str]:
    return [*EMI_RAY, verb, "-w", uri, *(each.format(folder=folder) for each in VERBS[verb])]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("hanging", "closed-port", "missing-bucket", "wrong-key", "outage")
    parser.add_argument("--stores", nargs="+", choices=names, default=names)
    parser.add_argument("--verbs", nargs="+", choices=[*VERBS], default=[*VERBS])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="emi-ray-stores-") as name, stores() as (door, uris):
        folder = Path(name)
        _write_corpus(folder)
        if "outage" in options.stores:
            for ready in (
                _command("init", uris["outage"], folder),
                _command("extract", uris["outage"], folder),
                [*EMI_RAY, "train", "-w", uris["outage"], "text", "--seed", "1", "--seed", "3", *QUICK],
            ):
                subprocess.run(ready, check=True, capture_output=True)
        for store in options.stores:
            for verb in options.verbs:
                if store == "outage":
                    door.opens_at = time.monotonic() + OUTAGE_S
                started = time.monotonic()
                done = subprocess.run(
                    ["timeout", str(LIMIT_S), *_command(verb, uris[store], folder)],
                    capture_output=True,
                    text=True,
                    stdin=subprocess.DEVNULL,
                )
                lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or [""]
                seconds, traceback = time.monotonic() - started, "Traceback" in done.stderr
                print(
                    f"{store:<14} {verb:<9} exit code {done.returncode}, {seconds:5.1f} s, {len(lines)} lines"
                    f"{', a TRACEBACK' if traceback else ''}: {' '.join(lines)[:300]}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
