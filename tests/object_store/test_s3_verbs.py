"""The way from a table to predictions, all of it behind an S3 URI."""

import csv
import io
import random

import pytest

from emi_ray.cli import main
from emi_ray.errors import UserError
from emi_ray.tuning.storage import check_storage
from emi_ray.workspace import Workspace

WORDS = ["good", "bad", "day", "sad", "what", "hello", "never"]


@pytest.fixture
def table(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "clips.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["clip_id", "split", "transcript", "Joy", "Fear"])
        for index in range(60):
            split = "val" if index % 3 == 0 else "test" if index % 7 == 0 else "train"
            labels = ["", ""] if split == "test" else [f"{draw.random():.3f}", f"{draw.random():.3f}"]
            rows.writerow([f"{index:03}", split, " ".join(draw.choices(WORDS, k=8)), *labels])
    return str(path)


def run(*arguments: str, ends: int = 0) -> None:
    with pytest.raises(SystemExit) as ending:
        main(list(arguments))
    assert (ending.value.code or 0) == ends


@pytest.mark.slow
def test_every_verb_works_behind_a_uri(s3, table, ray_session, capsys):
    uri = s3.uri("all verbs")
    run("init", "-w", uri, "--corpus", "table", "--source", table)
    assert f"Next: emi-ray extract -w '{uri}'" in capsys.readouterr().out
    run("extract", "-w", uri, "--modalities", "text")
    run("train", "-w", uri, "text", "training.epochs=2", "encoders.text.hidden=16")
    run("train", "-w", uri, "text", "training.epochs=2", "encoders.text.hidden=16")
    assert "already finished" in capsys.readouterr().out
    run("evaluate", "-w", uri, "text/42")
    run("report", "-w", uri)
    run("doctor", "-w", uri)
    workspace = Workspace(uri)
    with workspace.driving("extractions", "Extraction"), workspace.driving("runs/text/42", "Run text/42"):
        run("extract", "-w", uri, "--modalities", "text", ends=2)
        run("train", "-w", uri, "text", "--force", "encoders.text.hidden=16", ends=2)
    assert capsys.readouterr().err.count("is in progress in process") == 2
    out = s3.uri("out put/p.csv")
    run("predict", "-w", uri, "text/42", "--to", out)
    run("predict", "-w", uri, "text/42", "--form", "submission", "--to", s3.uri("out put/s.csv"))
    held = s3.client().get_object(Bucket="bucket", Key="out put/p.csv")["Body"].read().decode()
    num_test = workspace.clips()["split"].to_pylist().count("test")
    assert len(list(csv.DictReader(io.StringIO(held)))) == num_test
    assert "out put/s.csv" in s3.names()
    folders = {
        name.removeprefix("all verbs/").split("/")[0] for name in s3.names() if name.startswith("all verbs/")
    }
    assert {"emi_ray.yaml", "clips.parquet", "features", "runs", "report"} <= folders
    own = [
        name for name in s3.names() if name.startswith("all verbs/")
    ]  # other tests leave leases of the dead
    assert not [name for name in own if "/ray/" in name or "/.driver" in name]
    assert not s3.client().list_multipart_uploads(Bucket="bucket").get("Uploads")


def test_a_study_behind_a_uri_without_a_database_is_refused_at_once(s3):
    with pytest.raises(UserError, match="give a database with --storage"):
        check_storage(Workspace(s3.uri("work")), None)


@pytest.mark.slow
def test_what_a_killed_run_left_is_removed(s3, table, ray_session):
    uri = s3.uri("left over")
    run("init", "-w", uri, "--corpus", "table", "--source", table)
    run("extract", "-w", uri, "--modalities", "text")
    command = ["train", "-w", uri, "text", "training.epochs=1", "encoders.text.hidden=16"]
    run(*command)
    workspace = Workspace(uri)
    workspace.write_text("runs/text/42/ray/key/snapshot.json", "{}")
    run(*command)
    assert not workspace.files("runs/text/42/ray", recursive=True)
