import math

import optuna
import pytest
from optuna.trial import TrialState
from tuning_studies import SOURCE, open_study, run_made_up, score_of, settings_of

from emi_ray.tuning.study import ERROR, REPEAT, RETRY, START
from emi_ray.workspace import Workspace

FINITE = {"fusion.hidden": {"choice": [8, 16]}, "fusion.batch_size": {"choice": [8, 16]}}


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(str(tmp_path))


def params_of(study, *states):
    return [trial.params for trial in study.optuna.get_trials(states=states or None)]


def test_the_first_trial_is_the_recipe_as_it_stands(workspace):
    with open_study(workspace) as study:
        first, second = study.ask(), study.ask()
        assert first.recipe == SOURCE.original
        assert first.values == {"fusion.dropout": 0.45, "fusion.hidden": 16, "fusion.lr": 2e-4}
        assert second.recipe.fusion.dropout == second.values["fusion.dropout"] != 0.45


def test_own_settings_do_not_undo_what_single_stages_do_otherwise(workspace):
    settings = settings_of({"training.lr": {"loguniform": [1e-5, 1e-3]}})
    with open_study(workspace, settings) as study:
        assert study.ask().recipe == settings.recipe
        assert study.start is None


def test_a_stopped_study_goes_on_with_all_it_knew(workspace):
    with open_study(workspace) as study:
        run_made_up(study, 5)
        before = study.optuna.get_trials()
    with open_study(workspace) as study:
        assert study.optuna.get_trials() == before
        run_made_up(study, 5)
        assert study.counts.complete == 10
        assert len({tuple(sorted(params.items())) for params in params_of(study)}) == 10


def test_a_continued_sampler_draws_anew(workspace):
    for _ in range(4):
        with open_study(workspace, sampler="random") as study:
            run_made_up(study, 3)
    assert study.counts.repeated == 0
    assert study.counts.complete == 12


def test_stopped_trials_are_told_as_pruned_with_their_values(workspace):
    with open_study(workspace, scheduler="asha") as study:
        run_made_up(study, 12)
        pruned = study.optuna.get_trials(states=(TrialState.PRUNED,))
        assert pruned
        assert study.counts.finished == 12
        assert all(1 <= len(trial.intermediate_values) <= 3 for trial in pruned)
        assert all(trial.value == trial.intermediate_values[trial.last_step] for trial in pruned)
        assert study.best.state == TrialState.COMPLETE


def test_the_recipes_own_settings_are_never_pruned(workspace):
    with open_study(workspace, scheduler="asha") as study:
        first, rival = study.ask(), study.ask()
        assert not any(study.report(rival.number, step, 0.9) for step in range(1, 10))
        assert not any(study.report(first.number, step, 0.01) for step in range(1, 10))


def test_trials_of_a_dead_driver_are_failed_and_tried_again_once(workspace):
    with open_study(workspace) as study:
        start, other = study.ask(), study.ask()
    with open_study(workspace) as study:
        assert (study.counts.lost, study.counts.finished) == (2, 0)
        again = [study.ask(), study.ask()]
        assert [each.values for each in again] == [start.values, other.values]
        assert study.optuna.trials[again[0].number].user_attrs == {START: True}
        assert study.optuna.trials[again[1].number].user_attrs == {RETRY: other.number}
    with open_study(workspace) as study:
        assert study.ask().values == start.values
        assert study.ask().values != other.values


def test_what_is_given_up_is_tried_again(workspace):
    with open_study(workspace) as study:
        start, other = study.ask(), study.ask()
        study.give_up_running()
        assert (study.counts.lost, study.counts.running) == (2, 0)
        assert study.ask().values == other.values
    with open_study(workspace) as study:
        assert study.ask().values == start.values


def test_a_trial_that_was_lost_with_its_node_is_tried_again_once(workspace):
    with open_study(workspace) as study:
        run_made_up(study, 1)
        first = study.ask()
        study.lose(first.number)
        again = study.ask()
        assert again.values == first.values
        study.lose(again.number)
        assert study.ask().values != first.values
        assert (study.counts.lost, study.counts.failed) == (2, 0)


def test_a_start_that_failed_is_tried_again_by_the_next_driver(workspace):
    with open_study(workspace) as study:
        study.fail(study.ask().number, "out of memory")
        run_made_up(study, 2)
        assert study.start is None
    with open_study(workspace) as study:
        run_made_up(study, 1)
        assert study.start.number == 3
    with open_study(workspace) as study:
        assert not study.optuna.get_trials(states=(TrialState.WAITING,))


def test_nothing_is_stopped_that_is_nearly_done(workspace):
    with open_study(workspace, scheduler="asha") as study:
        _, *rivals = [study.ask() for _ in range(4)]
        for step in range(1, 10):
            study.report(rivals[0].number, step, 0.9)
        assert study.report(rivals[1].number, 3, 0.1)
        assert not any(study.report(rivals[2].number, step, 0.1) for step in (1, 2, 4, 9))


def test_no_trial_repeats_the_parameters_of_one_that_finished_or_runs(workspace):
    with open_study(workspace, settings_of(FINITE)) as study:
        seen = []
        while (candidate := study.ask()) is not None:
            seen.append(candidate.values)
            if len(seen) % 2:
                study.complete(candidate.number, score_of(0.1))
        assert len(seen) == 4
        assert study.is_exhausted
        assert all(values not in seen[:index] for index, values in enumerate(seen))
        repeated = [trial for trial in study.optuna.trials if REPEAT in trial.user_attrs]
        assert len(repeated) == study.counts.repeated
        assert all(trial.state == TrialState.FAIL for trial in repeated)


def test_a_failed_trial_says_why_and_does_not_count(workspace):
    with open_study(workspace) as study:
        broken, infinite = study.ask(), study.ask()
        study.fail(broken.number, "out of memory")
        study.complete(infinite.number, score_of(math.nan))
        assert (study.counts.failed, study.counts.finished) == (2, 0)
        reasons = [trial.user_attrs[ERROR] for trial in study.optuna.trials]
        assert reasons == ["out of memory", "val_pearson is not a finite number"]
        assert study.best is None


def test_two_objectives_give_a_front(workspace):
    with open_study(workspace, settings_of(minimise="parameters")) as study:
        for value, size in [(0.5, 100), (0.4, 50), (0.3, 80)]:
            candidate = study.ask()
            assert not study.report(candidate.number, 1, value)
            study.complete(candidate.number, score_of(value, size))
        assert [trial.values for trial in study.front] == [[0.5, 100.0], [0.4, 50.0]]
        assert study.best.values[0] == 0.5


def test_of_an_error_less_is_better(workspace):
    with open_study(workspace, settings_of(metric="val_mse")) as study:
        for value in (0.3, 0.1, 0.2):
            study.complete(study.ask().number, score_of(value))
        assert study.best.value == 0.1
        assert study.optuna.direction == optuna.study.StudyDirection.MINIMIZE
