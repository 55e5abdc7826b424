"""Mistakes that would make an extraction fail end it in seconds, with exit code 2, before Ray starts."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from table_files import read_text_table

import emi_ray.runtime
from emi_ray.cli import main
from emi_ray.corpus.setup import init_workspace
from emi_ray.workspace import Workspace

ROWS = "clip_id,split,video,Joy\n1,train,a.mp4,0.5\n2,val,b.mp4,0.7\n"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of two clips; a Ray session that is asked for fails the test."""

    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(emi_ray.runtime, "ray_session", started)
    read_text_table(tmp_path, ROWS)
    init_workspace(Workspace(str(tmp_path / "work")), "table", str(tmp_path / "clips.csv"))
    return tmp_path / "work"


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that ends with exit code 2 says."""
    with pytest.raises(SystemExit) as ending:
        main(arguments)
    said = " ".join(capsys.readouterr().err.split())
    assert ending.value.code == 2, said
    return said


def checkpoint(folder: Path, **config: object) -> Path:
    """Files of a checkpoint, with weights that nobody reads."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 3, **config}))
    (folder / "model.safetensors").write_bytes(bytes(8))
    return folder


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["extractors.audio.name=prosodi"], "extractors.audio.name = 'prosodi'.*prosody"),
        (["extractors.audio.name=dinov2-face"], "is for vision"),
        (["extractors.audio.settings.bnads=3"], "unknown setting 'bnads'"),
        (["extractors.audio.name=nobody.here:Class"], "nobody.here"),
        (
            ["extractors.audio.name=wav2vec2", "extractors.audio.settings.weights={}/none"],
            "no config.json in it",
        ),
        (["extractors.audio.name=wav2vec2", "extractors.audio.settings.weights={}/bare"], "has no weights"),
        (
            [
                "extractors.audio.name=wav2vec2",
                "extractors.audio.settings.weights={}/whole",
                "extractors.audio.settings.layer=9",
            ],
            "layer = 9: the model has layers 0 .* to 3",
        ),
        (["transcriber.name=whispr"], "transcriber.name = 'whispr'.*whisper"),
        (["transcriber.name=whisper", "transcriber.settings.weights={}/none"], "no config.json in it"),
        (
            [
                "transcriber.name=whisper",
                "transcriber.settings.weights={}/whole",
                "transcriber.settings.language=xx",
            ],
            "language = 'xx'.*en, es",
        ),
        (["media.faces.detector=yunet", "media.faces.yunet_model={}/none.onnx"], "none.onnx"),
    ],
)
def test_a_mistake_in_the_settings(settings, says, work, tmp_path, capsys):
    checkpoint(tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    generation = {"is_multilingual": True, "lang_to_id": {"<|en|>": 1, "<|es|>": 2}}
    (checkpoint(tmp_path / "whole") / "generation_config.json").write_text(json.dumps(generation))
    given = [setting.format(tmp_path) for setting in settings]
    said = refusal(["extract", "-w", str(work), *given], capsys)
    assert "Error: " in said  # a line that names the log file comes first
    assert re.search(says, said), said


def test_a_modality_without_an_extractor_and_a_workspace_without_clips(work, capsys):
    command = ["extract", "-w", str(work)]
    assert "smell" in refusal([*command, "--modalities", "audio,smell"], capsys)
    (work / "clips.parquet").unlink()
    assert "emi-ray init" in refusal(command, capsys)


WRITING = [
    "init --corpus table --source clips.csv",
    "extract",
    "train audio",
    "evaluate audio/1",
    "predict audio/1 --to x.csv",
    "report",
    "ensemble a/1 b/1 --name c",
    "import-features --layout folder --source x",
    "tune audio --space x.yaml",
    "reproduce",
    "demo",
    "run audio --corpus table --source clips.csv",
]


@pytest.mark.parametrize("command", WRITING)
def test_a_workspace_that_may_not_be_written(command, work, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert "is not writable" in refusal([*command.split(), "-w", str(work)], capsys)


def test_a_workspace_that_is_a_file_and_one_that_is_only_read(work, capsys, monkeypatch):
    file = str(work.parent / "clips.csv")
    for place in (file, f"{file}/below"):
        command = ["init", "-w", place, "--corpus", "table", "--source", "clips.csv"]
        assert "clips.csv is not a folder. Give another path" in refusal(command, capsys)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(SystemExit) as ending:
        main(["status", "-w", str(work)])
    assert not ending.value.code


def test_run_refuses_the_same_before_it_extracts(work, capsys):
    shutil.rmtree(work)
    source = str(work.parent / "clips.csv")
    command = ["run", "audio", "-w", str(work), "--corpus", "table", "--source", source]
    assert "prosody" in refusal([*command, "extractors.audio.name=prosodi"], capsys)
