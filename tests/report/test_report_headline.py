from pathlib import Path

from fabricated_workspace import add_run, write_corpus

from emi_ray.report.collect import collect
from emi_ray.report.headline import best_single_modality, headline
from emi_ray.report.runs import read_runs
from emi_ray.resampling import Interval


def test_fusion_is_set_against_its_best_single_modality(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "f1", 42, ["text", "audio", "vision"])
    metrics = workspace.read_json("runs/f1/42/metrics.json")
    total, text = metrics["val_pearson"], metrics["stages"]["text"]["val_pearson"]
    assert headline(collect(workspace), Interval(0.1, 0.9)) == (
        f"f1, seed 42: mean validation Pearson {total:.4f} (95 % interval 0.100 to 0.900) over 80 clips, "
        f"{total - text:.3f} above the best single modality (text: {text:.4f})."
    )


def test_better_unimodal_run_is_the_one_to_beat(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "f1", 42, ["text", "audio"])
    add_run(workspace, "text", 7, ["text"], skill=1.2)
    single = best_single_modality(read_runs(workspace))
    assert single is not None
    assert single.run.name == "text, seed 7"
    assert "(text in text, seed 7: " in headline(collect(workspace), None)


def test_best_run_of_one_modality_says_so(tmp_path: Path) -> None:
    workspace = write_corpus(tmp_path)
    add_run(workspace, "audio", 42, ["audio"])
    assert headline(collect(workspace), None).endswith("over 80 clips, from audio alone.")
