from pathlib import Path

import numpy as np
import pytest
from fabricated_workspace import add_run, write_corpus

from emi_ray.reporting.collect import Material, collect
from emi_ray.reporting.headline import best_single_modality, headline
from emi_ray.reporting.ranking import same_clips
from emi_ray.resampling import pearson_intervals
from emi_ray.results.predictions import read_scored_predictions, read_stage_predictions
from emi_ray.workspace import Workspace


def said_of(workspace: Workspace) -> tuple[Material, str]:
    material = collect(workspace)
    return material, headline(material, same_clips(workspace, material.runs))


def test_fusion_is_set_against_its_best_single_modality_on_the_same_clips(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "f1", 42, ["text", "audio", "vision"])
    metrics = workspace.read_json("runs/f1/42/metrics.json")
    total, text = metrics["val_pearson"], metrics["stages"]["text"]["val_pearson"]
    answers = read_scored_predictions(workspace, "runs/f1/42")
    assert answers is not None
    interval = pearson_intervals(answers.predicted, answers.true).mean
    said = said_of(workspace)[1]
    assert said.startswith(
        f"f1, seed 42: mean validation Pearson {total:.4f} (95 % interval {interval.low:.3f} to {interval.high:.3f}) "
        f"over 80 clips, {total - text:.3f} above the best single modality (text: {text:.4f}); 95 % interval of the "
    )


def test_better_unimodal_run_is_the_one_to_beat(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "f1", 42, ["text", "audio"])
    add_run(workspace, "text", 7, ["text"], skill=1.2)
    material, said = said_of(workspace)
    same = same_clips(workspace, material.runs)
    assert same is not None
    single = best_single_modality(material, same)
    assert single is not None
    assert single.run.name == "text, seed 7"
    assert "(text in text, seed 7: " in said


def test_best_run_of_one_modality_says_so(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "audio", 42, ["audio"])
    assert said_of(workspace)[1].endswith("over 80 clips, from audio alone.")


def keep_clips(workspace: Workspace, folder: str, keep: np.ndarray) -> float:
    """Spare a run the other clips, as if it lacked them; returns its score over those that it keeps."""
    for name in ("predictions", "stages"):
        table = workspace.read_table(f"{folder}/{name}.parquet")
        kept = set(np.array(workspace.read_table(f"{folder}/predictions.parquet")["clip_id"])[keep].tolist())
        mask = [clip_id in kept for clip_id in table["clip_id"].to_pylist()]
        if name == "stages":
            workspace.write_table(f"{folder}/{name}.parquet", table.filter(mask))
        else:
            later = table.filter(mask)
    workspace.write_table(f"{folder}/predictions.parquet", later)
    answers = read_scored_predictions(workspace, folder)
    assert answers is not None
    r = [np.corrcoef(answers.predicted[:, i], answers.true[:, i])[0, 1] for i in range(len(answers.labels))]
    metrics = workspace.read_json(f"{folder}/metrics.json")
    score = float(np.mean(r))
    workspace.write_json(
        f"{folder}/metrics.json", {**metrics, "val_pearson": score, "num_val": int(keep.sum())}
    )
    return score


def test_run_that_was_spared_hard_clips_does_not_lead(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "f1", 42, ["text", "audio"])
    add_run(workspace, "audio", 42, ["audio"], skill=1.35)
    answers = read_scored_predictions(workspace, "runs/audio/42")
    assert answers is not None
    misses = np.abs(answers.predicted - answers.true).mean(axis=1)
    flattered = keep_clips(workspace, "runs/audio/42", misses < np.quantile(misses, 0.6))
    own = workspace.read_json("runs/f1/42/metrics.json")["val_pearson"]
    assert flattered > own  # by its own clips it would lead
    material, said = said_of(workspace)
    same = same_clips(workspace, material.runs)
    assert same is not None
    assert len(same.clip_ids) == 48
    best = max(same.runs, key=same.score)
    assert said.startswith(f"{best.name} is the best of 2 runs on the same clips: mean validation Pearson ")
    assert said.count("over 48 clips") == 1
    by_hand = [
        np.corrcoef(same.answers[0].predicted[:, i], same.answers[0].true[:, i])[0, 1] for i in range(6)
    ]
    assert same.scores[0] == pytest.approx(np.mean(by_hand))


def test_runs_on_quite_other_clips_are_named_and_not_ranked(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "f1", 42, ["text", "audio"])
    add_run(workspace, "audio", 42, ["audio"], skill=1.3)
    keep_clips(workspace, "runs/audio/42", np.arange(80) < 20)
    said = said_of(workspace)[1]
    assert said.startswith("f1, seed 42: mean validation Pearson")
    assert said.endswith(" 1 run on other clips or without predictions: not compared.")


def test_stages_are_compared_on_the_clips_of_the_whole(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "f1", 42, ["text", "audio"])
    keep_clips(workspace, "runs/f1/42", np.arange(80) < 50)
    assert {len(each.clip_ids) for each in read_stage_predictions(workspace, "runs/f1/42").values()} == {50}
