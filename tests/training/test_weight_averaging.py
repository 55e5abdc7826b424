import torch
from planted import planted_data

from emi_ray.recipe.loading import load_recipe
from emi_ray.training.data.split_rows import split_rows
from emi_ray.training.stages.runner import Hooks
from emi_ray.training.stages.train_recipe import train_recipe
from emi_ray.training.weight_averaging import WeightAverage


def test_the_average_follows_the_weights_and_swaps_in_and_out():
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverage(model, decay=0.5)
    torch.nn.init.ones_(model.weight)
    average.update()  # decay of step 1: 2 / 11
    with average.in_place():
        torch.testing.assert_close(model.weight.data, torch.full((1, 2), 9 / 11))
    torch.testing.assert_close(model.weight.data, torch.ones(1, 2))


def test_a_run_with_averaged_weights_resumes_to_the_same_result():
    data = planted_data(num_train=32, num_val=16, modalities=["audio"])
    recipe = load_recipe("audio", ["training.ema_decay=0.9", "training.epochs=3", "encoders.audio.hidden=8"])
    saved = []
    hooks = Hooks(on_checkpoint=lambda build, ended: saved.append(build()))
    whole = train_recipe(recipe, data, split_rows(data), seed=1, hooks=hooks)
    resumed = train_recipe(recipe, data, split_rows(data), seed=1, hooks=Hooks(resume=saved[0]))
    for first, second in zip(
        whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(first, second)
