"""Object stores other than S3 that do not answer: each command ends in time with one sentence."""

import socket
import time
from collections.abc import Iterator

import huggingface_hub
import pytest

from emi_ray import storage
from emi_ray.cli import main
from emi_ray.storage import without_credentials
from emi_ray.time_limit import within


@pytest.fixture(params=["closed port", "silent server"])
def port(request, monkeypatch) -> Iterator[int]:
    """A port of this machine that nobody listens at, or where a server takes connections and says nothing."""
    monkeypatch.setattr(storage, "ANSWER_WITHIN_S", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent server":
            server.listen()
        number = server.getsockname()[1]
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{number}")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{number}")
        huggingface_hub.HfFileSystem.clear_instance_cache()
        yield number


ADDRESSES = {
    "gs": "gs://anonymous@bucket/{}?scheme=http&endpoint_override=127.0.0.1:{}",
    "hf": "hf://datasets/somebody/something/{}",
    "hdfs": "hdfs://127.0.0.1:{1}/{0}",
    "abfs": "abfs://account@127.0.0.1:{1}/container/{0}?enable_tls=false",
}


@pytest.mark.parametrize("verb", ["init", "status"])
@pytest.mark.parametrize("scheme", ADDRESSES)
def test_a_store_that_does_not_answer_is_one_sentence_in_time(scheme, verb, port, tmp_path, capsys):
    uri = ADDRESSES[scheme].format("clips.csv" if verb == "init" else "work", port)
    arguments = {
        "init": ["init", "-w", str(tmp_path / "work"), "--corpus", "table", "--source", uri],
        "status": ["status", "-w", uri],
    }
    started = time.monotonic()
    with pytest.raises(SystemExit) as ending:
        main(arguments[verb])
    assert time.monotonic() - started < 20
    assert ending.value.code in (1, 2)
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith(("Error: ", "Failed: "))
    assert uri.partition("?")[0] in said
    assert any(words in said for words in ("cannot be reached", "does not answer", "cannot be opened"))
    assert not (tmp_path / "work").exists()


def test_what_is_no_secret_in_a_uri_is_kept():
    for uri in ("gs://anonymous@bucket/a", "abfs://container@account.dfs.core.windows.net/a"):
        assert without_credentials(uri) == uri
    assert without_credentials("abfs://container:secret@account/a") == "abfs://account/a"


def test_a_call_is_given_up_in_time_and_its_error_is_passed_on():
    assert within(5, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(5, lambda: {}["x"])
    with pytest.raises(TimeoutError):
        within(0.05, lambda: time.sleep(1))
