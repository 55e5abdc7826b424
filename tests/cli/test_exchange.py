"""import-features, export-features, extractors and doctor, as they are typed."""

import os
import subprocess
import sys

import numpy as np
import pytest

from emi_ray.cli import main
from emi_ray.extractors import EXTRACTORS
from emi_ray.pretrained_weights.checkpoint import hub_answers


def exit_code(*arguments) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_answers.cache_clear()
    yield
    hub_answers.cache_clear()


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / "in" / f"{name}.npy", np.ones((3, 4), np.float32))
    return tmp_path / "in"


def test_features_go_in_and_out_again(source, tmp_path, capsys):
    work, out = tmp_path / "work", tmp_path / "out"
    given = ("-w", work, "--layout", "folder", "--modality", "audio")
    assert exit_code("import-features", *given, "--source", source) == 0
    printed = capsys.readouterr().out
    assert "imported-folder-audio" in printed
    assert "no train_split.csv and no --splits" in printed
    assert exit_code("export-features", *given, "--to", out) == 0
    np.testing.assert_array_equal(np.load(out / "b.npy"), np.ones((3, 4)))


def test_a_mistake_ends_with_2_and_one_sentence(source, tmp_path, capsys):
    assert exit_code("import-features", "-w", tmp_path, "--layout", "folder", "--source", source) == 2
    assert "Error: --layout folder does not define the modality." in capsys.readouterr().err


def test_refused_clips_are_shown_with_their_reasons(source, tmp_path, capsys):
    (source / "c.npy").write_bytes(b"junk")
    given = ("-w", tmp_path / "work", "--layout", "folder", "--modality", "audio", "--source", source)
    assert exit_code("import-features", *given) == 0
    assert "audio of c: " in capsys.readouterr().out


def test_extractors_lists_every_name(capsys):
    assert exit_code("extractors", "--plain") == 0
    assert capsys.readouterr().out.split() == list(EXTRACTORS)


def test_the_table_of_extractors_says_which_weights_are_not_to_be_had(capsys):
    assert exit_code("extractors") == 0
    extractors, weights = capsys.readouterr().out.split("Default weights")
    rows = {line.split()[0]: line.split() for line in extractors.splitlines() if line.strip()}
    assert rows.keys() >= EXTRACTORS.keys()
    assert rows["gte-base"][-1] == "no"
    assert rows["prosody"][-1] == "yes"
    assert "thenlper/gte-base" in weights


def test_extractors_starts_without_torch_and_ray():
    code = (
        "import sys; from emi_ray.cli import main; main(['extractors', '--plain']); "
        "sys.exit(bool({'torch', 'transformers', 'ray', 'librosa'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=60)


def test_doctor_ends_with_1_where_there_is_a_problem_and_says_the_remedy(source, tmp_path, capsys):
    work = tmp_path / "work"
    exit_code("import-features", "-w", work, "--layout", "folder", "--modality", "audio", "--source", source)
    assert exit_code("doctor", "-w", work) == 0
    capsys.readouterr()
    assert exit_code("doctor", "-w", work, "extractors.text.name=gte-base") == 1
    printed = capsys.readouterr()
    assert "problem  text: gte-base: weights = 'thenlper/gte-base'" in printed.out
    assert "hf download thenlper/gte-base" in printed.out
    assert "would make a run fail" in printed.err
