from types import SimpleNamespace

import numpy as np
import pytest
from tuning_studies import open_study, score_of, settings_of

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError
from emi_ray.metrics import compute_scores
from emi_ray.recipe.loading import load_recipe
from emi_ray.results.studies import ConfirmedTrial, ReportedScores, StudyResult, read_study_result
from emi_ray.schema import Label
from emi_ray.training.runs import RunResult
from emi_ray.tuning import confirmation, final_evaluation
from emi_ray.tuning.confirmation import confirm
from emi_ray.tuning.final_evaluation import evaluate_selected
from emi_ray.tuning.significance import FoldPredictions, SeedScore, gain_standard_error, metric_of
from emi_ray.tuning.trials_json import write_trials_json
from emi_ray.workspace import Workspace

LABELS = (Label("Joy", 0.0, 1.0),)


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

    def train(workspace, requests, config):
        return [trained_run(request.recipe, request.seed) for request in requests]

    def trained_run(recipe, seed):
        names.append((recipe.name, seed))
        score = 0.2 + 0.01 * (seed - 42) + 0.1 * recipe.name.endswith("-best")
        return RunResult(recipe, seed, {"val_pearson": score})

    monkeypatch.setattr(final_evaluation.runs, "train_runs", train)
    return names


VAL_PEARSON = metric_of("val_pearson", LABELS)


def judged_at(r, num_clips=2000):
    """A recipe whose predictions correlate with the targets by about ``r``; the same noise for every ``r``."""
    truth, noise = np.random.default_rng(0).normal(size=(2, num_clips, 1))
    said = r * truth + np.sqrt(1 - r**2) * noise
    halves = (slice(None, num_clips // 2), slice(num_clips // 2, None))
    return SeedScore(r, tuple(FoldPredictions(said[half], truth[half]) for half in halves), LABELS)


def judged(study, workspace, trained):
    confirmed = [
        ConfirmedTrial(number=1, tuned=0.5, confirmed=0.45),
        ConfirmedTrial(number=0, tuned=0.3, confirmed=0.3),
    ]
    return evaluate_selected(
        study, workspace, WorkspaceConfig(), confirmed, 3, (42, 43, 44), lambda text: None
    )


def test_best_and_start_are_trained_under_the_same_seeds_and_compared(study, tmp_path, trained):
    outcome = judged(study, Workspace(str(tmp_path)), trained)
    assert trained == [(f"s-{name}", seed) for name in ("best", "start") for seed in (42, 43, 44)]
    assert outcome.best_reported.mean == pytest.approx(0.31)
    assert outcome.gain == pytest.approx(0.1)
    assert outcome.optimism == pytest.approx(0.5 - 0.31)
    assert outcome.optimism_of_start == pytest.approx(0.3 - 0.21)


def test_an_error_that_was_lower_in_the_search_flatters_too_and_a_lower_one_is_a_gain():
    reported = [
        ReportedScores(recipe=name, scores=(value,)) for name, value in (("best", 0.30), ("start", 0.35))
    ]
    outcome = StudyResult(
        metric="val_mse",
        finished=3,
        seeds=(42,),
        confirmed=(ConfirmedTrial(number=1, tuned=0.20, confirmed=0.25),),
        start=ConfirmedTrial(number=0, tuned=0.34, confirmed=0.34),
        best_reported=reported[0],
        start_reported=reported[1],
        parameters={},
        start_parameters={},
    )
    assert outcome.optimism == pytest.approx(0.10)
    assert outcome.optimism_of_start == pytest.approx(0.01)
    assert outcome.gain == pytest.approx(0.05)


def test_the_noise_of_a_gain_counts_people_and_not_clips():
    def wide(r, groups):
        rng = np.random.default_rng(0)
        own = np.repeat(rng.normal(size=(40, 1)), 25, axis=0)
        truth = own + rng.normal(size=own.shape)
        noise = rng.normal(size=(40, 1)).repeat(25, axis=0)
        said = r * truth + np.sqrt(1 - r**2) * noise
        return SeedScore(r, (FoldPredictions(said, truth, groups),), LABELS)

    people = np.repeat([f"p{i}" for i in range(40)], 25)
    clips, groups = (
        gain_standard_error([wide(0.6, each)] * 4, [wide(0.3, each)] * 4, VAL_PEARSON)
        for each in (None, people)
    )
    assert groups > 1.5 * clips


def test_the_result_is_kept_and_read_again(study, tmp_path, trained):
    workspace = Workspace(str(tmp_path))
    outcome = judged(study, workspace, trained)
    assert read_study_result(workspace, "s") == outcome
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
            confirmation._candidates(study, 3)


@pytest.mark.parametrize(
    ("gain", "chosen"),
    [(0.1, [2, 0, 1]), (0.005, [0, 2, 1])],
    ids=["a clear winner", "one within the noise"],
)
def test_confirmation_may_change_the_choice_and_the_start_stays_unless_beaten(
    study, tmp_path, monkeypatch, gain, chosen
):
    flattered, challenger = (study.optuna.trials[number].params["fusion.lr"] for number in (1, 2))

    def score(recipe, seed, *job):
        noise = 0.02 * (-1) ** seed * (recipe.fusion.lr == challenger)
        return judged_at(0.4 + noise + {flattered: -0.3, challenger: gain}.get(recipe.fusion.lr, 0.0))

    remote = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=score))
    monkeypatch.setattr(confirmation.ray, "remote", lambda **_: lambda function: remote)
    monkeypatch.setattr(confirmation, "results_of", list)
    shared, resources = SimpleNamespace(reference=None), SimpleNamespace(options={}, threads=1)
    workspace = Workspace(str(tmp_path))
    confirmed = confirm(study, shared, workspace, resources, 2, lambda text: None)
    assert [each.number for each in confirmed] == chosen
    assert {each.number: each.confirmed for each in confirmed}[2] == pytest.approx(0.4 + gain)


def test_a_gain_is_as_uncertain_as_seeds_and_clips_are_few():
    start, challenger = [judged_at(0.4)] * 4, [judged_at(0.45)] * 4
    assert gain_standard_error(start, start, VAL_PEARSON) == 0
    few = [[judged_at(r, 50)] * 4 for r in (0.45, 0.4)]
    error = gain_standard_error(challenger, start, VAL_PEARSON)
    assert 0 < error < 0.01 < 3 * gain_standard_error(*few, VAL_PEARSON)
    wavering = [judged_at(0.45 + 0.05 * sign) for sign in (1, -1, 1, -1)]
    # Four seeds, half of them .05 above and half below: .058 / sqrt(4), and the clips' share.
    assert gain_standard_error(wavering, start, VAL_PEARSON) == pytest.approx(
        np.hypot(0.029, error), rel=0.25
    )


def test_a_metric_by_name_is_the_score_of_that_name():
    labels = (*LABELS, Label("Empathic Pain", 0.0, 1.0))
    predictions, targets = np.random.default_rng(0).random((2, 40, 2))
    known = compute_scores(predictions, targets, labels)
    for name in ("val_pearson", "val_ccc", "val_mse", "val_mae", "val_pearson_empathic_pain"):
        assert metric_of(name, labels)(predictions, targets) == pytest.approx(known[name])


def test_a_start_that_stays_is_reported_once_under_both_names(study, tmp_path, trained):
    confirmed = [
        ConfirmedTrial(number=0, tuned=0.3, confirmed=0.3),
        ConfirmedTrial(number=1, tuned=0.5, confirmed=0.2),
    ]
    outcome = evaluate_selected(
        study, Workspace(str(tmp_path)), WorkspaceConfig(), confirmed, 3, (42, 43), lambda text: None
    )
    assert trained == [("s-best", 42), ("s-best", 43)]
    assert (outcome.gain, outcome.start_reported.recipe) == (0, "s-start")


def test_the_front_of_two_objectives_is_part_of_the_result(tmp_path, trained):
    workspace = Workspace(str(tmp_path))
    with open_study(workspace, settings_of(minimise="parameters")) as study:
        for value, size in [(0.5, 100), (0.4, 50), (0.3, 80)]:
            study.complete(study.ask().number, score_of(value, size))
        outcome = judged(study, workspace, trained)
        assert [point.values for point in outcome.front] == [(0.5, 100.0), (0.4, 50.0)]
        write_trials_json(study, workspace)
    assert workspace.read_json("studies/s/trials.json")["minimise"] == "parameters"
