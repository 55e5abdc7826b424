import io

import numpy as np
import pytest
import torch
from planted import planted_data

from emi_ray.models.build import build_unimodal
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import Label
from emi_ray.training.data.split_rows import split_rows, with_inner_part
from emi_ray.training.loop import fit, seed_everything
from emi_ray.training.optimizer import build_optimizer, build_scheduler, step_scheduler


def run(data, overrides=(), seed=1, **hooks):
    recipe = load_recipe("audio", ["encoders.audio.hidden=16", "training.lr=2e-3", *overrides])
    rows = with_inner_part(data, split_rows(data), recipe.training)
    seed_everything(seed, "weights")
    model = build_unimodal(recipe, "audio", data.features["audio"].feature_dim, len(data.labels))
    settings = (recipe.training, recipe.objective)
    return model, fit(model, data, rows.train, rows.val, *settings, seed=seed, inner=rows.inner, **hooks)


def without_seconds(history):
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]


@pytest.fixture(scope="module")
def data():
    return planted_data(modalities=["audio"])


def same_weights(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_the_same_seed_gives_the_same_result_to_the_last_digit(data):
    first, second = run(data, ["training.epochs=3"]), run(data, ["training.epochs=3"])
    assert without_seconds(first[1].history) == without_seconds(second[1].history)
    assert same_weights(first[0], second[0])
    other = run(data, ["training.epochs=3"], seed=2)
    assert other[1].history[0]["train_loss"] != first[1].history[0]["train_loss"]


@pytest.mark.parametrize("stop_on", ["inner", "val"])
@pytest.mark.parametrize("scheduler", ["plateau", "cosine"])
def test_resuming_after_any_epoch_gives_the_result_of_an_undisturbed_run(data, scheduler, stop_on):
    overrides = ["training.epochs=4", f"training.scheduler={scheduler}", f"training.stop_on={stop_on}"]
    overrides += ["training.plateau_patience=0"] if scheduler == "plateau" else []
    saved = []

    def keep(build):
        buffer = io.BytesIO()
        torch.save(build(), buffer)
        saved.append(buffer.getvalue())

    undisturbed = run(data, overrides, on_checkpoint=keep)
    for state in saved:
        torch.rand(7)  # what others draw in between must not matter
        resume = torch.load(io.BytesIO(state), weights_only=True)
        resumed = run(data, overrides, resume=resume)
        assert without_seconds(resumed[1].history) == without_seconds(undisturbed[1].history)
        assert same_weights(resumed[0], undisturbed[0])


def test_the_model_ends_with_the_weights_of_its_best_epoch(data):
    weights = {}

    def keep(build):
        dumped = build()
        weights[dumped["state"]["epoch"]] = dumped["model"]

    model, state = run(data, ["training.epochs=20", "training.lr=5e-2"], on_checkpoint=keep)
    best = max(state.history, key=lambda entry: entry["val_pearson"])
    assert state.best_epoch == best["epoch"] < len(state.history)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[state.best_epoch][name])


def test_training_stops_when_patience_is_out(data):
    _, state = run(data, ["training.epochs=40", "training.patience=2", "training.min_improvement=0.9"])
    assert state.best_epoch == 1
    assert len(state.history) == 3


def test_the_callback_sees_every_epoch_and_may_end_the_stage(data):
    seen = []

    def stop_at_two(scores):
        seen.append((scores["stage"], scores["epoch"]))
        return scores["epoch"] == 2

    _, state = run(data, on_epoch_end=stop_at_two, stage="audio")
    assert seen == [("audio", 1), ("audio", 2)]
    assert state.stopped


def test_training_learns_what_was_planted(data):
    _, state = run(data, ["training.epochs=15"])
    assert state.best_pearson > 0.3


def test_a_constant_label_and_missing_targets_train_all_the_same():
    labels = [Label("age", 10, 60), Label("never"), Label("joy")]
    data = planted_data(labels=labels, modalities=["audio"])
    data.targets[:, 0] = 10 + 50 * data.targets[:, 0]
    data.targets[:, 1] = 0.0
    data.targets[::3, 2] = np.nan
    _, state = run(data, ["training.epochs=10"])
    best = state.history[state.best_epoch - 1]
    assert np.isnan(best["val_pearson_never"])
    assert best["num_labels_scored"] == 2
    assert best["val_pearson_age"] > 0.2
    assert best["val_mae"] > 1  # in years, not in shares of the range


@pytest.mark.parametrize("num_labels", [1, 20])
def test_any_number_of_labels_trains_with_every_part_of_the_objective(num_labels):
    labels = [Label(f"l{index}", -1.0, 3.0) for index in range(num_labels)]
    data = planted_data(num_train=32, num_val=16, labels=labels, modalities=["audio"])
    data.targets[::5, 0] = np.nan
    for kinds in (["zero_inflated"], ["binomial"], ["hurdle"], ["binomial", "hurdle"]):
        weights = [f"objective.{kind}=0.5" for kind in kinds]
        _, state = run(data, ["training.epochs=2", "objective.memory=24", *weights])
        assert np.isfinite(state.history[-1]["val_pearson"])
        assert state.history[-1]["num_labels_scored"] == num_labels


def test_labels_that_never_vary_leave_the_last_weights_and_stop():
    data = planted_data(labels=[Label("never")], modalities=["audio"])
    data.targets[:] = 0.5
    _, state = run(data, ["training.epochs=30", "training.patience=3"])
    assert len(state.history) == 3
    assert state.best_weights is None


def test_the_cosine_schedule_warms_up_and_ends_near_zero():
    recipe = load_recipe(
        "audio", ["training.scheduler=cosine", "training.warmup_epochs=2", "training.epochs=10"]
    )
    optimizer = build_optimizer(build_unimodal(recipe, "audio", 4, 1), recipe.training)
    scheduler = build_scheduler(optimizer, recipe.training)
    rates = []
    optimizer.step()
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"] / recipe.training.lr)
        step_scheduler(scheduler, 0.0)
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.05
