import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from planted import planted_data

from emi_ray.models.build import build_model
from emi_ray.recipe.loading import load_recipe
from emi_ray.training.data.split_rows import split_rows
from emi_ray.training.distributed import Team
from emi_ray.training.loop import fit, seed_everything

SETTINGS = ["stages=joint", "fusion.epochs=3", "training.batch_size=19"]


def train():
    """A fusion with dropout of every kind that is drawn a clip."""
    data = planted_data(num_train=77, num_val=33)
    recipe = load_recipe("second-place", SETTINGS)
    rows = split_rows(data)
    seed_everything(0)
    dims = {modality: data.features[modality].feature_dim for modality in recipe.modalities}
    model = build_model(recipe, dims, len(data.labels))
    state = fit(model, data, rows.train, rows.val, recipe.training, recipe.objective, seed=0)
    return model, state


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model, state = train()
    torch.save([model.state_dict(), [entry["val_pearson"] for entry in state.history]], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_train_as_one(tmp_path):
    mp.start_processes(work, (str(tmp_path),), nprocs=2, start_method="spawn")
    model, state = train()
    for rank in (0, 1):
        weights, pearsons = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        np.testing.assert_allclose(pearsons, [entry["val_pearson"] for entry in state.history], atol=1e-5)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=1e-4)


def test_shares_make_up_the_batch_in_the_order_of_gathering():
    rows = np.arange(10, 17)
    teams = [Team(rank, 3) for rank in range(3)]
    shares = [team.share(rows) for team in teams]
    np.testing.assert_array_equal(np.concatenate(shares), teams[0].arrange(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def sum_gradients(rank, folder):
    """One parameter that both workers use, one that only the first uses, and one that nobody uses."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    shared, first, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    shared.grad = torch.full((2,), 1.0 + rank)
    if rank == 0:
        first.grad = torch.full((2,), 5.0)
    Team(rank, 2).sum_gradients([shared, first, unused])
    torch.save([shared.grad, first.grad, unused.grad], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_summed_and_an_unused_parameter_has_none_as_with_one_worker(tmp_path):
    mp.start_processes(sum_gradients, (str(tmp_path),), nprocs=2, start_method="spawn")
    for rank in (0, 1):
        shared, first, unused = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert (shared.tolist(), first.tolist(), unused) == ([3, 3], [5, 5], None)
