"""Count the requests that each command sends to an S3 server, for a corpus of short texts.

    python benchmarks/s3_requests.py --clips 2000

Starts moto's server on this machine (``pip install 'emi_ray[dev]'``), runs each command as a process, and counts the
requests to the server by method. Listings are GET requests. ``--paths`` prints the path of each request.
"""

import argparse
import csv
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

WORDS = ("good", "bad", "day", "sad", "what", "hello", "never", "always")


class CountingHandler(WSGIRequestHandler):
    """Counts requests by method and prints nothing."""

    counts: ClassVar[Counter[str]] = Counter()
    paths: ClassVar[Counter[str]] = Counter()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.counts[self.command] += 1
        self.paths[f"{self.command} {unquote(self.path)}"] += 1

    def log(self, *_: object) -> None:
        return


def write_corpus(path: Path, num_clips: int) -> None:
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["clip_id", "split", "transcript", "Joy", "Fear"])
        for index in range(num_clips):
            split = "val" if index % 5 == 0 else "train"
            text = " ".join(draw.choices(WORDS, k=8))
            rows.writerow([f"{index:06}", split, text, f"{draw.random():.3f}", f"{draw.random():.3f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--paths", action="store_true", help="print each request")
    options = parser.parse_args()
    num_clips = options.clips
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=CountingHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "clips.csv"
        write_corpus(table, num_clips)
        for verb in (
            f"init --corpus table --source {table}",
            "extract --modalities text",
            "extract --modalities text",
            "train text training.epochs=3",
            "evaluate text/42",
            "report",
        ):
            CountingHandler.counts.clear()
            CountingHandler.paths.clear()
            name, *arguments = verb.split()
            command = [sys.executable, "-m", "emi_ray", name, "-w", "s3://bucket/work", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            counts = ", ".join(f"{count} {method}" for method, count in CountingHandler.counts.most_common())
            print(f"{name:10}{CountingHandler.counts.total():6} requests: {counts}", flush=True)
            if options.paths:
                for path, count in CountingHandler.paths.items():
                    print(f"{count:6} {path}")
            if done.returncode:
                sys.exit(done.stdout + done.stderr)


if __name__ == "__main__":
    main()
