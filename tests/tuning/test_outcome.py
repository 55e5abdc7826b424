from types import SimpleNamespace

import pytest
from tuning_studies import open_study, score_of, settings_of

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError
from emi_ray.recipe import load_recipe
from emi_ray.tuning import outcome as module
from emi_ray.tuning.outcome import Confirmed, confirm, judge, read_outcome
from emi_ray.tuning.record import write_record
from emi_ray.workspace import Workspace


@pytest.fixture
def study(tmp_path):
    """Three complete trials, the start the worst of them."""
    with open_study(Workspace(str(tmp_path))) as study:
        for value in (0.3, 0.5, 0.4):
            study.complete(study.ask().number, score_of(value))
        yield study


@pytest.fixture
def trained(monkeypatch):
    """Instead of training: the score grows with the seed and is better for the best recipe."""
    names = []

    def train(workspace, recipe, config, seed):
        names.append((recipe.name, seed))
        return {"val_pearson": 0.2 + 0.01 * (seed - 42) + 0.1 * recipe.name.endswith("-best")}

    monkeypatch.setattr(module.ray_worker, "train", train)
    return names


def judged(study, workspace, trained):
    confirmed = [
        Confirmed(number=1, tuned=0.5, confirmed=0.45),
        Confirmed(number=0, tuned=0.3, confirmed=0.3),
    ]
    return judge(study, workspace, WorkspaceConfig(), confirmed, (42, 43, 44), lambda text: None)


def test_best_and_start_are_trained_under_the_same_seeds_and_compared(study, tmp_path, trained):
    outcome = judged(study, Workspace(str(tmp_path)), trained)
    assert trained == [(f"s-{name}", seed) for name in ("best", "start") for seed in (42, 43, 44)]
    assert outcome.best_reported.mean == pytest.approx(0.31)
    assert outcome.gain == pytest.approx(0.1)
    assert outcome.optimism == pytest.approx(0.5 - 0.31)
    assert outcome.optimism_of_start == pytest.approx(0.3 - 0.21)


def test_the_result_is_kept_and_read_again(study, tmp_path, trained):
    workspace = Workspace(str(tmp_path))
    outcome = judged(study, workspace, trained)
    assert read_outcome(workspace, "s") == outcome
    kept = workspace.read_json("studies/s/result.json")
    assert kept["optimism"] == outcome.optimism


def test_the_best_recipe_is_a_file_that_train_takes(study, tmp_path, trained):
    judged(study, Workspace(str(tmp_path)), trained)
    best = load_recipe(str(tmp_path / "studies/s/best.yaml"))
    chosen = study.optuna.trials[1].params
    assert (best.fusion.dropout, best.fusion.lr) == (chosen["fusion.dropout"], chosen["fusion.lr"])
    assert (best.name, best.paper, best.training.epochs) == ("s-best", None, 9)


def test_without_a_complete_trial_there_is_nothing_to_choose_from(tmp_path):
    with open_study(Workspace(str(tmp_path))) as study:
        study.fail(study.ask().number, "broken")
        with pytest.raises(EmiRayError, match="no complete trial"):
            module._candidates(study, 3)


@pytest.mark.parametrize(
    ("gain", "chosen"),
    [(0.1, [2, 0, 1]), (0.01, [0, 2, 1])],
    ids=["a clear winner", "one within the noise over seeds"],
)
def test_confirmation_may_change_the_choice_and_the_start_stays_unless_beaten(
    study, tmp_path, monkeypatch, gain, chosen
):
    flattered, challenger = (study.optuna.trials[number].params["fusion.lr"] for number in (1, 2))

    def score(recipe, seed, *job):
        noise = 0.02 * (-1) ** seed * (recipe.fusion.lr == challenger)
        return 0.4 + noise + {flattered: -0.3, challenger: gain}.get(recipe.fusion.lr, 0.0)

    remote = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=score))
    monkeypatch.setattr(module.ray, "remote", lambda **_: lambda function: remote)
    monkeypatch.setattr(module, "results_of", list)
    shared, resources = SimpleNamespace(reference=None), SimpleNamespace(options={}, threads=1)
    workspace = Workspace(str(tmp_path))
    confirmed = confirm(study, shared, workspace, resources, 2, lambda text: None)
    assert [each.number for each in confirmed] == chosen
    assert {each.number: each.confirmed for each in confirmed}[2] == pytest.approx(0.4 + gain)


def test_the_front_of_two_objectives_is_part_of_the_result(tmp_path, trained):
    workspace = Workspace(str(tmp_path))
    with open_study(workspace, settings_of(minimise="parameters")) as study:
        for value, size in [(0.5, 100), (0.4, 50), (0.3, 80)]:
            study.complete(study.ask().number, score_of(value, size))
        outcome = judged(study, workspace, trained)
        assert [point.values for point in outcome.front] == [(0.5, 100.0), (0.4, 50.0)]
        write_record(study, workspace)
    assert workspace.read_json("studies/s/trials.json")["minimise"] == "parameters"
