from pathlib import Path

import pytest

from emi_ray.corpus.setup import init_workspace
from emi_ray.errors import UserError
from emi_ray.schema import EMOTION_LABELS, labels_of
from emi_ray.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path / "workspace"))


def test_init_writes_configuration_and_clips(vidmimic2: Path, workspace: Workspace) -> None:
    corpus = init_workspace(workspace, "vidmimic2", str(vidmimic2), ["training.epochs=3"])
    assert workspace.clips().equals(corpus.clips)
    assert labels_of(workspace.clips().schema) == EMOTION_LABELS
    config = workspace.config()
    assert (config.corpus.kind, config.corpus.source) == ("vidmimic2", str(vidmimic2))
    assert config.training == {"epochs": 3}


def test_init_again_keeps_the_settings_that_were_made(vidmimic2: Path, workspace: Workspace) -> None:
    init_workspace(workspace, "vidmimic2", str(vidmimic2), ["media.frame_rate_hz=3"])
    init_workspace(workspace, "vidmimic2", str(vidmimic2), ["media.max_frames=9"])
    media = workspace.config().media
    assert (media.frame_rate_hz, media.max_frames) == (3, 9)


def test_a_range_can_be_declared_on_the_command_line(vidmimic2: Path, workspace: Workspace) -> None:
    corpus = init_workspace(
        workspace, "vidmimic2", str(vidmimic2), ["corpus.label_ranges.Empathic Pain=[0, 2]"]
    )
    assert corpus.labels[3].high == 2


def test_a_refused_corpus_leaves_the_workspace_as_it_was(vidmimic2: Path, workspace: Workspace) -> None:
    (vidmimic2 / "train_split.csv").unlink()
    with pytest.raises(UserError):
        init_workspace(workspace, "vidmimic2", str(vidmimic2))
    assert not workspace.exists("emi_ray.yaml")


def test_an_unknown_kind_or_setting_is_refused(vidmimic2: Path, workspace: Workspace) -> None:
    with pytest.raises(UserError, match="--corpus 'hume': choose from"):
        init_workspace(workspace, "hume", str(vidmimic2))
    with pytest.raises(UserError, match=r"unknown setting 'media\.max_frame': did you mean 'max_frames'"):
        init_workspace(workspace, "vidmimic2", str(vidmimic2), ["media.max_frame=3"])


def test_clips_with_other_media_than_before_are_named(vidmimic2: Path, workspace: Workspace) -> None:
    init_workspace(workspace, "vidmimic2", str(vidmimic2))
    workspace.write_text("features/text/0123456789ab/_extractor.json", "{}")
    assert not any(
        "other media or transcripts" in f.message
        for f in init_workspace(workspace, "vidmimic2", str(vidmimic2)).findings
    )
    (vidmimic2 / "text/00000.txt").write_text("Something else.")
    found = init_workspace(workspace, "vidmimic2", str(vidmimic2)).findings
    assert [f.examples for f in found if "other media or transcripts" in f.message] == [("00000",)]
