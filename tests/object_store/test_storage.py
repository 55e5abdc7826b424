"""Workspaces and media on S3, against a server that is there and against ones that are not."""

import pickle
import socket
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest
from pyarrow import fs

from emi_ray import storage
from emi_ray.cli import main
from emi_ray.config import WorkspaceConfig
from emi_ray.corpus.files import kind_of, refuse_credentials
from emi_ray.errors import UserError
from emi_ray.media.source import UnreadableError, open_media
from emi_ray.storage import StorageError, open_uri, without_credentials
from emi_ray.workspace import Workspace

SECRET = "s3://AKIAEXAMPLE:topsecret@bucket/work"
WRONG_KEY = b"<Error><Code>InvalidAccessKeyId</Code><Message>The key does not exist</Message></Error>"


def test_a_workspace_on_s3_reads_back_what_was_written(s3):
    workspace = Workspace(s3.uri("plain"))
    workspace.write_text("a/b/c.txt", "hello")
    workspace.write_table("a/t.parquet", pa.table({"x": [1, 2]}))
    assert workspace.read_text("a/b/c.txt") == "hello"
    assert workspace.read_table("a/t.parquet")["x"].to_pylist() == [1, 2]
    assert workspace.files("a", recursive=True) == ["a/b/c.txt", "a/t.parquet"]
    assert workspace.folders("a") == ["b"]
    assert [key for key in s3.names() if key.startswith("plain")] == ["plain/a/b/c.txt", "plain/a/t.parquet"]
    workspace.delete("a")
    assert not workspace.exists("a/b/c.txt")
    assert pickle.loads(pickle.dumps(workspace)).files("", recursive=True) == []


def test_a_small_file_is_one_request_and_no_upload_in_parts(s3, monkeypatch):
    workspace = Workspace(s3.uri("one"))
    workspace.write_text("first", "")
    before = len(s3.client().list_multipart_uploads(Bucket="bucket").get("Uploads", []))
    with workspace.filesystem.open_output_stream(workspace.path("half")) as stream:
        stream.write(b"x" * 1000)
        assert len(s3.client().list_multipart_uploads(Bucket="bucket").get("Uploads", [])) == before


@pytest.mark.parametrize("longer", ["", "0" * 9])
def test_a_file_that_is_replaced_while_it_is_read_is_read_whole(faltering, longer):
    workspace = Workspace(faltering.uri("replaced"))
    workspace.write_json("record.json", {"driver": "process 100 on one"})
    later = {"driver": f"process 1{longer} on one"}
    faltering.once_seen = lambda: workspace.write_json("record.json", later)
    assert workspace.read_json("record.json") == later
    assert faltering.once_seen is None


@pytest.mark.parametrize("name", ["with space", "with%20space", "Gefühle", "a+b"])
def test_names_of_any_letters_are_folders(s3, name):
    workspace = Workspace(s3.uri(name))
    workspace.write_text("x", "1")
    assert workspace.read_text("x") == "1"
    assert any(key.startswith(name.replace("%20", " ")) for key in s3.names())
    assert workspace.inner("deep er").root.startswith(f"s3://bucket/{name}/deep er?")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3:/bucket/work", r"two slashes: s3://bucket/work"),
        ("gs:bucket", r"two slashes: gs://bucket"),
        ("s3://bucket/a#b?region=x", "write %23"),
        ("s3:///work", "bucket is missing"),
        ("s3://bucket/a?colour=red", "'colour' is not an option"),
        ("hdfs://host/x", "libhdfs"),
        ("nonsense://host/x", "Give a local path, or a URI"),
    ],
)
def test_a_uri_that_cannot_be_meant_is_explained(uri, says):
    with pytest.raises(UserError, match=says):
        open_uri(uri)


def test_credentials_in_a_uri_are_refused_and_not_repeated(tmp_path, capsys):
    with pytest.raises(SystemExit) as ending:
        main(["extract", "-w", SECRET])
    printed = capsys.readouterr()
    assert ending.value.code == 2
    assert "s3://bucket/work was given with credentials" in printed.err
    assert "topsecret" not in printed.err + printed.out
    clips = pa.table({"clip_id": ["c1"], "video": [SECRET], "transcript": ["mail a@b.c"]})
    with pytest.raises(UserError, match="Clip c1, video: s3://bucket/work has credentials") as refusal:
        refuse_credentials(clips)
    assert "topsecret" not in str(refusal.value)
    refuse_credentials(clips.select(["clip_id", "transcript"]))


def test_credentials_that_were_stored_before_are_not_read_back(tmp_path):
    workspace = Workspace(str(tmp_path))
    workspace.write_config(WorkspaceConfig.model_validate({"corpus": {"kind": "table", "source": SECRET}}))
    text = f"see {SECRET} or a@b"
    workspace.write_table(
        "clips.parquet", pa.table({"clip_id": ["c"], "video": [SECRET], "transcript": [text]})
    )
    assert workspace.config().corpus.source == "s3://bucket/work"
    assert workspace.clips().to_pylist() == [
        {"clip_id": "c", "video": "s3://bucket/work", "transcript": text}
    ]
    assert without_credentials(text) == "see s3://bucket/work or a@b"


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (403, WRONG_KEY, UserError, "refuses the credentials .*AWS_ACCESS_KEY_ID"),
        (403, b"<Error><Code>AccessDenied</Code></Error>", UserError, "denies access.*s3:ListBucket"),
        (404, b"<Error><Code>NoSuchBucket</Code></Error>", UserError, "There is no bucket s3://bucket"),
        (503, b"", StorageError, "cannot be reached .*repeat the command"),
    ],
)
def test_what_a_server_refuses_is_a_sentence_with_its_remedy(misbehaving, status, body, kind, says):
    misbehaving.status, misbehaving.body = status, body
    with pytest.raises(kind, match=says):
        Workspace(misbehaving.uri("work")).exists("x")


VERBS = {
    "init": ["--corpus", "table", "--source", "{table}"],
    "extract": [],
    "train": ["f1"],
    "tune": ["f1", "--space", "search_spaces/fusion.yaml"],
    "evaluate": ["f1/42"],
    "predict": ["f1/42", "--to", "{folder}/p.csv"],
    "report": [],
    "status": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("listens", [False, True], ids=["closed port", "silent server"])
def test_a_server_that_does_not_answer_is_a_sentence_in_time_of_every_verb(
    monkeypatch, listens, capsys, tmp_path
):
    monkeypatch.setattr(storage, "ANSWER_WITHIN_S", 0.5)
    monkeypatch.setattr(storage, "_ASK_TIMEOUT_S", 0.5)
    (tmp_path / "clips.csv").write_text("clip_id,split,transcript\na,train,hello\n")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        uri = f"s3://bucket/w?scheme=http&region=x&endpoint_override=127.0.0.1:{silent.getsockname()[1]}"
        for verb, options in VERBS.items():
            storage._s3.cache_clear()
            started = time.monotonic()
            filled = [each.format(table=tmp_path / "clips.csv", folder=tmp_path) for each in options]
            with pytest.raises(SystemExit) as ending:
                main([verb, "-w", uri, *filled])
            said = " ".join(capsys.readouterr().err.split())
            assert ending.value.code == 1, (verb, said)
            assert said.startswith("Failed: s3://bucket/w"), verb
            assert "s3://bucket cannot be reached" in said, verb
            assert time.monotonic() - started < 10, verb
    storage._s3.cache_clear()


GIVING_UP = """
import sys
from emi_ray.cli import app
from emi_ray.storage import open_uri
from emi_ray.time_limit import within

def verb(args):
    filesystem, path = open_uri(sys.argv[1])
    within(0.3, lambda: filesystem.get_file_info(path))

app.app = verb
app.main()
"""


def test_a_call_that_was_given_up_does_not_hold_up_the_end_of_the_process():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"s3://bucket/w?scheme=http&region=x&endpoint_override=127.0.0.1:{silent.getsockname()[1]}"
        ended = subprocess.run([sys.executable, "-c", GIVING_UP, uri], timeout=60, check=False)
    assert ended.returncode == 1


def test_an_outage_that_passes_is_outlived(misbehaving, s3, monkeypatch):
    misbehaving.status = 503
    monkeypatch.setattr(storage, "REACH_WITHIN_S", 20.0)
    monkeypatch.setattr(storage, "RETRIES", 8)
    threading.Timer(1.0, lambda: setattr(misbehaving, "status", 200)).start()
    assert kind_of(misbehaving.uri("x")) == fs.FileType.File
    misbehaving.status = 503
    threading.Timer(1.0, lambda: setattr(misbehaving, "status", 200)).start()
    assert kind_of(misbehaving.uri("y")) == fs.FileType.File


def test_an_outage_says_nothing_of_a_clip(misbehaving, s3):
    with pytest.raises(StorageError, match="cannot be reached"):
        open_media(misbehaving.uri("clip.mp4"))
    with pytest.raises(UnreadableError, match="file not found"):
        open_media(s3.uri("nothing.mp4"))


def test_media_on_s3_are_read(s3):
    s3.client().put_object(Bucket="bucket", Key="a b.bin", Body=b"0123456789")
    with open_media(s3.uri("a b.bin")) as stream:
        assert stream.read(4) == b"0123"
        stream.seek(-2, 2)
        assert stream.read() == b"89"
