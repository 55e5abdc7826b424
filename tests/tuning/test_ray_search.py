import pytest
from optuna.trial import TrialState
from planted import planted_workspace
from tuning_studies import SOURCE, open_study, settings_of

from emi_ray.training.plan import plan_run
from emi_ray.tuning.study import ERROR

pytestmark = pytest.mark.usefixtures("ray_session")

TOO_MUCH = 1 << 44
SPACE = {
    "fusion.lr": {"loguniform": [1e-5, 1e-2]},
    "fusion.hidden": {"choice": [*range(8, 32), TOO_MUCH]},  # more memory than there is
}


def test_trials_run_side_by_side_fail_alone_and_are_told_as_they_ended(tmp_path):
    from emi_ray.tuning.ray_search import plan_resources, search, share_data, untouched_encoders
    from emi_ray.tuning.tune_adapters import SearchLimits

    workspace = planted_workspace(tmp_path, num_train=48, num_val=24)
    settings = settings_of(SPACE)
    plan = plan_run(workspace, SOURCE.original, workspace.config(), SOURCE.original.training.seed)
    shared = share_data(plan, settings)
    changes = []
    with open_study(workspace, settings, scheduler="asha", sampler="random") as study:
        study.optuna.enqueue_trial({"fusion.lr": 1e-4, "fusion.hidden": TOO_MUCH})
        resources = plan_resources(settings.recipe, shared, None, None)
        limits = SearchLimits(num_trials=6)
        search(study, shared, workspace, resources, limits, lambda: changes.append(study.counts.finished))
        counts, trials = study.counts, study.optuna.trials
    assert counts.finished == 6
    assert (counts.running, counts.lost) == (0, 0)
    assert trials[0].state == TrialState.COMPLETE
    failed = [trial for trial in trials if ERROR in trial.user_attrs]
    assert [trial.params["fusion.hidden"] for trial in failed] == [TOO_MUCH] * len(failed) != []
    reasons = [trial.user_attrs[ERROR] for trial in failed]
    assert all("allocate memory" in reason for reason in reasons), reasons
    for trial in trials:
        if trial.state == TrialState.PRUNED:
            assert trial.last_step < 9
        if trial.state == TrialState.COMPLETE:
            assert trial.last_step == 9
    assert max(changes) == 6
    assert untouched_encoders(settings) == ["text", "audio", "vision"]
    encoders = workspace.files("encoders", recursive=True)
    assert len(encoders) == 3, "trained once, reused by every trial"
