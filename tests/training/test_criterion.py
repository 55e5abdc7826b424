import pytest
import torch

from emi_ray.losses import (
    binomial_loss,
    build_objective,
    ccc_loss,
    hurdle_loss,
    mse_loss,
    normal_divergence,
    presence_loss,
)
from emi_ray.models.outputs import Outputs, Part, Targets
from emi_ray.recipe.sections import ObjectiveSettings
from emi_ray.training.criterion import Criterion


def random(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


EVERYONE = torch.ones(16, dtype=torch.bool)
X, Y = random(16, 3), random(16, 3).clamp(min=0.4) - 0.4


@pytest.mark.parametrize("complete", [False, True])
def test_the_search_for_nan_changes_no_loss(complete):
    objective = ObjectiveSettings(pearson=0.5, l1=0.2, huber=0.1)
    loss = build_objective(objective)
    torch.testing.assert_close(loss(X, Y, complete), loss(X, Y))


def test_every_part_of_the_objective_is_added_at_its_weight():
    objective = ObjectiveSettings(auxiliary=0.5, zero_inflated=0.25, latent_prior=0.1)
    latent = random(16, 4)
    branches = (Part(X + 0.1, EVERYONE), Part(X - 0.1, EVERYONE))
    outputs = Outputs(X, log_odds=random(16, 3) - 0.5, branches=branches, latents=(Part(latent, EVERYONE),))
    main = build_objective(objective)
    expected = (
        main(X, Y)
        + 0.25 * (main(X + 0.1, Y) + main(X - 0.1, Y))
        + 0.25 * presence_loss(outputs.log_odds, Y)
        + 0.1 * normal_divergence(latent[:, :2], latent[:, 2:], EVERYONE)
    )
    torch.testing.assert_close(Criterion(objective, complete=True)(outputs, Y), expected)


def test_outputs_survive_the_exchange_between_workers():
    some = torch.arange(16) % 3 > 0
    branches = (Part(X + 2, EVERYONE), Part(X + 3, some))
    outputs = Outputs(
        X, log_odds=X + 1, amount=X - 1, branches=branches, latents=(Part(random(16, 4), some),)
    )
    again = outputs.unpack(torch.cat([outputs.pack(), outputs.pack()]))
    torch.testing.assert_close(again.branches[1].values, torch.cat([X + 3, X + 3]))
    assert torch.equal(again.branches[1].present, torch.cat([some, some]))
    torch.testing.assert_close(again.latents[0].values[16:], outputs.latents[0].values)
    assert torch.equal(again.latents[0].present[16:], some)
    torch.testing.assert_close(again.amount[16:], X - 1)
    assert Outputs(X).unpack(Outputs(X).pack()).log_odds is None


@pytest.mark.parametrize("complete", [False, True])
def test_a_clip_that_lacks_a_modality_is_left_out_of_what_is_said_of_it_alone(complete):
    objective = ObjectiveSettings(pearson=0.5, auxiliary=0.5, latent_prior=0.1)
    some = torch.arange(16) % 3 > 0
    latent, branch = random(16, 4), X.clone()

    def loss():
        outputs = Outputs(X, branches=(Part(branch, some),), latents=(Part(latent, some),))
        return Criterion(objective, complete)(outputs, Y)

    main = build_objective(objective)
    divergence = normal_divergence(latent[some][:, :2], latent[some][:, 2:], EVERYONE[some])
    expected = main(X, Y) + 0.5 * main(X[some], Y[some]) + 0.1 * divergence
    torch.testing.assert_close(loss(), expected)
    branch[~some] = latent[~some] = 77.0
    torch.testing.assert_close(loss(), expected)


def test_a_batch_in_which_nobody_has_a_modality_has_no_loss_of_it():
    objective = ObjectiveSettings(auxiliary=0.5, latent_prior=0.1)
    nobody = torch.zeros(16, dtype=torch.bool)
    outputs = Outputs(X, branches=(Part(X, nobody),), latents=(Part(random(16, 4), nobody),))
    torch.testing.assert_close(Criterion(objective, True)(outputs, Y), build_objective(objective)(X, Y))


def test_memory_counts_past_predictions_in_correlations_and_leaves_errors_to_the_batch():
    objective = ObjectiveSettings(ccc=1.0, mse=1.0, memory=6)
    criterion = Criterion(objective, complete=True)
    criterion.start_epoch()
    criterion(Outputs(X[:8]), Y[:8])
    second = X[8:].clone().requires_grad_()
    loss = criterion(Outputs(second), Y[8:])
    expected = ccc_loss(X[2:], Y[2:]) + mse_loss(X[8:], Y[8:])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert torch.isfinite(second.grad).all()
    criterion.start_epoch()
    torch.testing.assert_close(
        criterion(Outputs(X[8:]), Y[8:]), ccc_loss(X[8:], Y[8:]) + mse_loss(X[8:], Y[8:])
    )


@pytest.mark.parametrize("correlation", ["ccc", "pearson"])
def test_memory_leaves_the_losses_in_the_proportion_of_their_weights(correlation):
    random = torch.Generator().manual_seed(0)
    truth = torch.rand((20, 16, 3), generator=random)
    found = 0.5 * truth + 0.5 * torch.rand(truth.shape, generator=random)

    def pull(memory, **weights):
        objective = ObjectiveSettings(**{"ccc": 0, "mse": 0, **weights}, memory=memory)
        criterion = Criterion(objective, complete=True)
        norms = []
        for batch, targets in zip(found, truth, strict=True):
            given = batch.clone().requires_grad_()
            criterion(Outputs(given), targets).backward()
            norms.append(given.grad.norm().item())
        return sum(norms[10:])

    without = pull(0, **{correlation: 1.0}) / pull(0, mse=1.0)
    with_memory = pull(128, **{correlation: 1.0}) / pull(0, mse=1.0)
    assert with_memory == pytest.approx(without, rel=0.3)


def test_a_zero_inflated_prediction_is_probability_times_amount():
    raw = torch.tensor([[0.0, 100.0, 0.6, 0.5], [-100.0, 0.0, 0.8, 1.0]])
    found = Targets(2, "zero_inflated").read(raw)
    torch.testing.assert_close(found.predictions, torch.tensor([[0.3, 0.5], [0.0, 0.5]]))
    torch.testing.assert_close(found.log_odds, raw[:, :2])


def test_the_binomial_loss_is_the_likelihood_of_a_rater():
    counts = torch.tensor([[0.0, 3.0], [9.0, 5.0]])
    chance = torch.tensor([[0.1, 0.4], [0.8, 0.5]])
    likelihood = torch.distributions.Binomial(9, probs=chance).log_prob(counts)
    arrangements = torch.lgamma(torch.tensor(10.0)) - torch.lgamma(counts + 1) - torch.lgamma(10 - counts)
    torch.testing.assert_close(binomial_loss(chance, counts / 9), -(likelihood - arrangements).mean() / 9)


def test_the_hurdle_loss_is_presence_and_how_many_where_there_are_any():
    shares = torch.tensor([[0.0, 0.4], [0.2, 0.0], [float("nan"), 0.0]])
    odds, amount = random(3, 2), random(3, 2)
    how_many = [binomial_loss(amount[row, column], shares[row, column]) for row, column in ((0, 1), (1, 0))]
    expected = presence_loss(odds, shares) + (how_many[1] / 2 + how_many[0] / 3) / 2
    torch.testing.assert_close(hurdle_loss(odds, amount, shares), expected)


@pytest.mark.parametrize(
    "objective", [{"binomial": 1}, {"hurdle": 1}, {"binomial": 0.5, "hurdle": 0.5, "ccc": 0.7}]
)
def test_likelihoods_make_predictions_probabilities_and_reach_zero_at_the_truth(objective):
    settings = ObjectiveSettings(**{"ccc": 0, "mse": 0, **objective})
    targets, truth = Targets.of(3, settings), (Y * 9).round() / 9
    layer = targets.last_layer(4)
    raw = torch.nn.Parameter(layer(random(16, 4)).detach())
    optimizer, criterion = torch.optim.Adam([raw], lr=0.3), Criterion(settings, complete=True)
    for _ in range(400):
        optimizer.zero_grad()
        criterion(targets.read(raw), truth).backward()
        optimizer.step()
    found = targets.read(raw).predictions
    assert ((found >= 0) & (found <= 1)).all()
    torch.testing.assert_close(found, truth, atol=0.03, rtol=0)


def test_kinds_of_predictions_do_not_mix():
    with pytest.raises(ValueError, match="choose one"):
        ObjectiveSettings(zero_inflated=0.5, hurdle=0.5)


def test_the_divergence_from_the_standard_normal_is_zero_for_itself():
    assert normal_divergence(torch.zeros(4, 3), torch.zeros(4, 3), EVERYONE[:4]).item() == 0
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(torch.full((4, 3), 0.5), 2.0), torch.distributions.Normal(0.0, 1.0)
    )
    found = normal_divergence(torch.full((4, 3), 0.5), torch.full((4, 3), 2.0).square().log(), EVERYONE[:4])
    torch.testing.assert_close(found, expected.sum(dim=1).mean())
