"""Links are followed for content, never for names: HF hub, DVC and git-annex keep content elsewhere."""

import os
from pathlib import Path

import pytest

from emi_ray.config import CorpusSettings
from emi_ray.corpus.folder import read_media
from emi_ray.corpus.manifest import read_corpus
from emi_ray.errors import EmiRayError, UserError
from emi_ray.exchange.sources import FolderSource
from emi_ray.workspace import Workspace


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A snapshot of links into a folder of blobs that are called by their hashes."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/main"
    (snapshot / "media").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "3f2a").write_text("clip_id,split,video,transcript\n1,test,media/a.mp4,said.txt\n")
    (blobs / "77c0").write_bytes(b"video")
    (blobs / "91aa").write_text("what a day")
    (snapshot / "clips.csv").symlink_to(blobs / "3f2a")
    (snapshot / "media/a.mp4").symlink_to(blobs / "77c0")
    (snapshot / "said.txt").symlink_to(blobs / "91aa")
    return snapshot


@pytest.mark.parametrize("source", ["clips.csv", "."])
def test_media_are_looked_for_beside_the_link_to_a_table(hub: Path, source: str) -> None:
    corpus = read_corpus("table", str(hub / source), CorpusSettings())
    assert corpus.clips["video"].to_pylist() == [str(hub / "media/a.mp4")]
    assert corpus.clips["transcript"].to_pylist() == ["what a day"]
    assert not corpus.warnings


def test_media_are_called_as_their_links_are(hub: Path) -> None:
    assert read_media([str(hub / "media")]).clips["clip_id"].to_pylist() == ["a"]
    assert read_media([str(hub / "media/a.mp4")]).clips["clip_id"].to_pylist() == ["a"]


def test_a_link_to_nothing_is_a_missing_file(hub: Path) -> None:
    (hub / "media/b.mp4").symlink_to("../nowhere/b.mp4")
    (hub / "table.csv").write_text("clip_id,video\n1,media/a.mp4\n2,media/b.mp4\n")
    corpus = read_corpus("table", str(hub / "table.csv"), CorpusSettings())
    assert [f.examples for f in corpus.warnings if "the file is missing" in f.message] == [("2",)]
    assert read_media([str(hub / "media")]).clips["clip_id"].to_pylist() == ["a"]


def test_a_source_that_is_a_link_to_nothing_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").symlink_to("../annex/objects/x")
    with pytest.raises(UserError, match=r"is a link to \.\./annex/objects/x, which does not exist.*fetch it"):
        read_corpus("table", str(tmp_path / "clips.csv"), CorpusSettings())


@pytest.mark.timeout(20)
def test_a_hub_that_is_out_of_reach_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(EmiRayError, match=r"hub at http://127\.0\.0\.1:9 cannot be reached"):
        read_corpus("table", "hf://datasets/nobody/none/clips.csv", CorpusSettings())


@pytest.mark.timeout(20)
def test_folders_that_are_links_are_walked_once_and_loops_end(hub: Path, tmp_path: Path) -> None:
    (hub / "media/again").symlink_to(hub / "media")
    (hub / "media/elsewhere").symlink_to(tmp_path / "more")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/c.mp4").write_bytes(b"video")
    (tmp_path / "more/up").symlink_to(tmp_path)
    found = read_media([str(hub / "media")]).clips["clip_id"].to_pylist()
    assert sorted(found) == ["a", "c"]


def test_a_folder_of_features_may_hold_links(hub: Path) -> None:
    (hub / "media/x.npy").symlink_to("../../../blobs/77c0")
    (hub / "media/gone.npy").symlink_to("nowhere")
    assert FolderSource("audio", str(hub / "media")).ids() == ["x"]


def test_a_workspace_may_be_a_link_and_parents_are_those_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "disk/project").mkdir(parents=True)
    (tmp_path / "work").symlink_to(tmp_path / "disk/project")
    Workspace(str(tmp_path / "work")).write_text("a.txt", "said")
    assert (tmp_path / "disk/project/a.txt").read_text() == "said"
    beside = Workspace(str(tmp_path / "work/../b"))
    beside.write_text("a.txt", "said")
    assert os.path.exists(tmp_path / "work/../b/a.txt")
    assert (tmp_path / "disk/b/a.txt").exists()
