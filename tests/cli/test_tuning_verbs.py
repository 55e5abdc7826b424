import pytest
from planted import planted_workspace

from emi_ray.cli import main

SPACE = "parameters: {fusion.dropout: {uniform: [0.1, 0.7]}, fusion.hidden: {choice: [8, 16, 32]}}"
SMALL = [f"encoders.{modality}.hidden=16" for modality in ("text", "audio", "vision")]
SMALL += ["fusion.hidden=16", "training.epochs=4"]


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    return planted_workspace(tmp_path / "w", num_train=48, num_val=24)


def tune(workspace, *more: str) -> None:
    space = workspace.root.removesuffix("/w") + "/space.yaml"
    main(["tune", "-w", workspace.root, "f1", *SMALL, "--space", space, *more])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--metric", "val_person"], "did you mean 'val_pearson'"),
        (["--study", "My Study"], "use lower-case letters"),
        (["--minimise", "parameters", "--scheduler", "asha"], "use --scheduler none"),
        (["--space", "nowhere.yaml"], "There is no search space nowhere.yaml"),
    ],
)
def test_a_users_mistake_is_told_before_anything_starts(workspace, capsys, more, message):
    with pytest.raises(SystemExit) as ended:
        tune(workspace, *more)
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_dashboard_of_a_study_that_is_not_there_is_refused(workspace, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["dashboard", "-w", workspace.root, "--study", "f9"])
    assert ended.value.code == 2
    assert "start one with emi-ray tune" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_the_whole_way_from_a_search_to_its_page(workspace, capsys, ray_session):
    workspace.write_config(workspace.config(["tracking=[tensorboard]"]))
    with pytest.raises(SystemExit) as ended:
        tune(workspace, "--trials", "4", "--seeds", "1", "--confirm", "1", "--study", "s")
    assert ended.value.code == 0
    main_report = capsys.readouterr().out
    assert "the best so far" in main_report
    assert "Optimism" in main_report
    result = workspace.read_json("studies/s/result.json")
    assert result["finished"] == 4
    assert {run["recipe"] for run in (result["best_reported"], result["start_reported"])} == {
        "s-best",
        "s-start",
    }
    assert set(workspace.folders("tracking/tensorboard/s")) >= {"trial-0", "trial-1", "trial-2", "trial-3"}
    assert workspace.folders("tracking/tensorboard/s-best") == ["42"]
    with pytest.raises(SystemExit):
        main(["report", "-w", workspace.root])
    assert 'id="studies"' in workspace.read_text("report/index.html")
    with pytest.raises(SystemExit) as ended:
        tune(workspace, "--trials", "4", "--study", "s", "--folds", "2")
    assert ended.value.code == 2
    assert "another folds" in " ".join(capsys.readouterr().err.split())
