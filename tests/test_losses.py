import numpy as np
import pytest
import torch

from emi_ray import losses, metrics
from emi_ray.recipe.sections import ObjectiveSettings

X = torch.tensor([[0.1, 0.0], [0.2, 0.5], [0.6, 0.5]])
Y = torch.tensor([[0.0, 0.0], [0.5, 0.0], [1.0, 1.0]])
# First label: means 0.3, 0.5; variances 0.14/3, 0.5/3; covariance 0.25/3; squared difference of means 0.04.
CCC_1 = 2 * (0.25 / 3) / (0.14 / 3 + 0.5 / 3 + 0.04)
PEARSON_1 = 0.25 / (0.14 * 0.5) ** 0.5
# Second label: means 1/3, 1/3; variances 1/18, 2/9; covariance 1/18.
CCC_2 = 2 * (1 / 18) / (1 / 18 + 2 / 9)
PEARSON_2 = (1 / 18) / (1 / 18 * 2 / 9) ** 0.5


def test_losses_have_the_values_computed_by_hand():
    assert losses.ccc_loss(X, Y).item() == pytest.approx(1 - (CCC_1 + CCC_2) / 2, rel=1e-5)
    assert losses.pearson_loss(X, Y).item() == pytest.approx(1 - (PEARSON_1 + PEARSON_2) / 2, rel=1e-5)
    assert losses.mse_loss(X, Y).item() == pytest.approx((0.01 + 0.09 + 0.16 + 0.25 + 0.25) / 6)
    assert losses.l1_loss(X, Y).item() == pytest.approx((0.1 + 0.3 + 0.4 + 0.5 + 0.5) / 6)
    huber = (0.005 + 0.2 * (0.3 - 0.1) + 0.2 * (0.4 - 0.1) + 2 * 0.2 * (0.5 - 0.1)) / 6
    assert losses.huber_loss(X, Y, delta=0.2).item() == pytest.approx(huber)


def test_the_objective_is_the_weighted_sum():
    objective = losses.build_objective(ObjectiveSettings())
    expected = 0.7 * losses.ccc_loss(X, Y) + 0.3 * losses.mse_loss(X, Y)
    assert objective(X, Y).item() == pytest.approx(expected.item())


def test_losses_agree_with_the_metrics():
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(50, 6, generator=random), torch.rand(50, 6, generator=random)
    assert losses.ccc_loss(x, y).item() == pytest.approx(
        1 - metrics.ccc(x.numpy(), y.numpy()).mean(), rel=1e-4
    )
    assert losses.pearson_loss(x, y).item() == pytest.approx(
        1 - metrics.pearson(x.numpy(), y.numpy()).mean(), rel=1e-4
    )


@pytest.mark.parametrize(
    "loss",
    [losses.ccc_loss, losses.pearson_loss, losses.mse_loss, losses.l1_loss],
    ids=lambda loss: loss.__name__,
)
def test_a_nan_target_is_left_out_of_its_label_alone(loss):
    x = torch.rand(8, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    y = torch.rand(8, 3, generator=torch.Generator().manual_seed(2))
    y[:3, 1] = torch.nan
    y[:, 2] = torch.nan
    expected = (loss(x[:, :1], y[:, :1]) + loss(x[3:, 1:2], y[3:, 1:2])) / 2
    result = loss(x, y)
    assert result.item() == pytest.approx(expected.item(), rel=1e-5)
    result.backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[:3, 1] == 0).all()
    assert (x.grad[:, 2] == 0).all()


def test_a_batch_without_any_target_costs_nothing():
    objective = losses.build_objective(ObjectiveSettings(pearson=1.0, l1=1.0, huber=1.0))
    assert objective(X, torch.full_like(Y, torch.nan)).item() == 0.0


def test_a_label_that_is_constant_in_the_batch_has_ccc_loss_one_and_a_finite_gradient():
    x = X.clone().requires_grad_()
    loss = losses.ccc_loss(x, torch.zeros_like(Y)) + losses.pearson_loss(x, torch.zeros_like(Y))
    assert loss.item() == pytest.approx(2.0)
    loss.backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_the_pearson_gradient_is_finite_for_equal_predictions():
    x = torch.full((4, 2), 0.3, requires_grad=True)
    losses.pearson_loss(x, torch.rand(4, 2, generator=torch.Generator().manual_seed(0))).backward()
    assert torch.isfinite(x.grad).all()
