"""Noise of a stated ratio, word errors of a stated rate, and a run that is scored on both."""

import csv
from pathlib import Path

import numpy as np
import pytest
from planted import planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.corpus.setup import init_workspace
from emi_ray.corruptions import add_noise, with_word_errors
from emi_ray.errors import UserError
from emi_ray.evaluation import evaluate_single_run
from emi_ray.extraction.run import extract
from emi_ray.perturbation import measure_perturbed
from emi_ray.recipe.loading import load_recipe
from emi_ray.reporting.robustness_section import robustness_tables
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.workspace import Workspace


@pytest.mark.parametrize("snr_db", [20.0, 0.0, -6.0])
def test_noise_has_the_stated_ratio_and_the_spectrum_of_the_sound(snr_db):
    times = np.arange(32_000) / 16_000
    sound = (0.1 * np.sin(2 * np.pi * 220 * times) * (1 + np.sin(2 * np.pi * 3 * times))).astype(np.float32)
    noise = add_noise(sound, snr_db, np.random.default_rng(0)) - sound
    ratio = 10 * np.log10(np.mean(sound.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))
    assert ratio == pytest.approx(snr_db, abs=0.01)
    assert np.argmax(np.abs(np.fft.rfft(noise))) == pytest.approx(
        440, abs=10
    )  # 220 Hz in bins of half a hertz


def test_silence_stays_silence_and_a_loud_sum_stays_within_full_scale():
    assert not add_noise(np.zeros(1000, np.float32), 0.0, np.random.default_rng(0)).any()
    loud = np.sign(np.sin(np.arange(16_000) / 20)).astype(np.float32)
    assert np.abs(add_noise(loud, 0.0, np.random.default_rng(0))).max() <= 1


def test_word_errors_come_at_the_stated_rate_in_the_stated_shares():
    text = " ".join(f"w{index}" for index in range(20_000))
    wrong = with_word_errors(text, 0.2, ["x"], np.random.default_rng(0)).split()
    drawn, kept = wrong.count("x"), len(wrong) - wrong.count("x")
    assert drawn / 20_000 == pytest.approx(0.2 * 0.75, abs=0.01)  # substitutions and insertions
    assert kept / 20_000 == pytest.approx(1 - 0.2 * 0.85, abs=0.01)  # all but substitutions and deletions
    fewer = with_word_errors(text, 0.1, ["x"], np.random.default_rng(0)).split()
    assert set(wrong) <= set(fewer)  # what the lower rate hits, the higher one hits too
    assert with_word_errors(text, 0.0, ["x"], np.random.default_rng(0)) == text


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_is_scored_on_the_same_clips_with_noise_and_word_errors(demo_corpus: Path, tmp_path: Path):
    with (demo_corpus / "clips.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for index, row in enumerate(rows):
        row["video"], row["split"] = str(demo_corpus / row["video"]), "val" if index % 2 else "train"
    rows = [row for row in rows if row["Admiration"]]
    with (tmp_path / "clips.csv").open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    workspace = Workspace(str(tmp_path / "w"))
    init_workspace(workspace, "table", str(tmp_path / "clips.csv"), [])
    extract(workspace, workspace.config(), ["audio", "text", "vision"])
    small = ["training.epochs=2", "fusion.hidden=8"]
    recipe = load_recipe("f1", [*small, *(f"encoders.{m}.hidden=8" for m in ("text", "audio", "vision"))])
    execute_run(plan_run(workspace, recipe, workspace.config(), 1))

    found = measure_perturbed(workspace, "f1/1", [90.0, 0.0], [0.0, 0.9], max_clips=500)
    clean, hardly, much = found["noise"]
    expected = evaluate_single_run(workspace, "f1/1")["val"]["val_pearson"]
    assert clean["val_pearson"] == pytest.approx(expected, abs=1e-6)
    assert hardly["val_pearson"] == pytest.approx(expected, abs=0.05)
    assert much["val_pearson"] != pytest.approx(expected, abs=1e-3)
    assert [each["name"] for each in found["word_errors"]] == [
        "unperturbed",
        "0 % of words wrong",
        "90 % of words wrong",
    ]
    assert found["word_errors"][1]["val_pearson"] == pytest.approx(expected, abs=1e-6)
    assert not workspace.files("perturbed", recursive=True)
    assert [table.headings[0] for table in robustness_tables(found)] == ["with noise", "with word errors"]


def test_imported_features_cannot_be_perturbed_and_say_so(tmp_path):
    workspace = planted_workspace(tmp_path, num_train=40, num_val=20)
    recipe = load_recipe("text", ["training.epochs=1", "encoders.text.hidden=8"])
    execute_run(plan_run(workspace, recipe, WorkspaceConfig(), 1))
    with pytest.raises(UserError, match="imported text features"):
        measure_perturbed(workspace, "text/1")
