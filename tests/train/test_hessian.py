"""P7: Hutchinson's estimate against the explicit Hessian of every layer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from train.hessian import layer_traces
from train.layer_quantizer import LayerQuantizer
from train.methods.lsq import LsqQuantizer
from train.quantize import quantize
from train.weight_quantizer import WeightQuantizer


def test_estimate_lies_within_its_standard_error_of_the_explicit_traces() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(20, 5).double(), torch.randint(0, 3, (20,))
    weights = [net[0].weight, net[2].weight]

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(net(x), y)

    estimates, errors = layer_traces(loss, weights, 500, torch.Generator().manual_seed(1))
    for weight, estimate, error in zip(weights, estimates, errors, strict=True):
        rows = torch.autograd.grad(loss(), weight, create_graph=True)[0].flatten()
        trace = sum(
            float(torch.autograd.grad(row, weight, retain_graph=True)[0].flatten()[i]) for i, row in enumerate(rows)
        )
        assert abs(float(estimate) - trace) < 4 * float(error)
        assert 0 < float(error) < 0.1


def test_estimate_is_exact_where_the_hessian_is_diagonal() -> None:
    scales = torch.tensor([3.0, 0.5, 2.0])
    a, b = torch.ones(3, requires_grad=True), torch.ones(4, requires_grad=True)
    estimates, errors = layer_traces(
        lambda: (scales * a**2).sum() / 2 - (b**2).sum(), [a, b], 3, torch.Generator().manual_seed(0)
    )
    assert torch.equal(estimates, torch.tensor([5.5, -8.0]))
    assert errors.abs().max() == 0


def test_estimate_is_repeatable() -> None:
    a = torch.randn(6, requires_grad=True, generator=torch.Generator().manual_seed(3))
    runs = [layer_traces(lambda: a.sum() ** 4 + a[0] ** 2, [a], 2, torch.Generator().manual_seed(7)) for _ in "xy"]
    assert torch.equal(runs[0][0], runs[1][0])


def test_without_second_derivatives_the_trace_comes_from_differences_of_gradients() -> None:
    torch.manual_seed(0)
    x, wanted = torch.randn(64, 5), torch.randn(64, 3)
    net = nn.Sequential(nn.Linear(5, 8), nn.Hardsigmoid(), nn.Linear(8, 3))
    weights = [net[0].weight, net[2].weight]
    before = [weight.detach().clone() for weight in weights]
    found, _ = layer_traces(lambda: (net(x) - wanted).square().mean(), weights, 200, torch.Generator().manual_seed(0))
    hidden = nn.Hardsigmoid()(net[0](x))
    exact = 2 * hidden.square().mean(0).sum()
    assert float(found[1]) == pytest.approx(float(exact.detach()), rel=0.1)
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


@pytest.mark.parametrize("make", [lambda _: WeightQuantizer("sign_magnitude", 2), lambda w: LsqQuantizer(w, 3)])
def test_differences_of_gradients_are_not_rounded_away_by_the_weight_quantizers(
    make: Callable[[torch.Tensor], LayerQuantizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = quantize(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double(), make)
    x, wanted = torch.randn(64, 5).double(), torch.randn(64, 3).double()
    weights = [site.weight for site in model.sites]
    trained = [weight.detach().clone() for weight in weights]
    used = [site.layer.weight.detach().clone() for site in model.sites]

    def traces() -> torch.Tensor:
        with model.unrounded():
            assert all(torch.equal(site.layer.weight, before) for site, before in zip(model.sites, used, strict=True))
            found, _ = layer_traces(
                lambda: (model(x) - wanted).square().mean(), weights, 100, torch.Generator().manual_seed(1)
            )
        return found

    exact = traces()
    grad = torch.autograd.grad

    def no_second_derivative(outputs: Any, *rest: Any, **options: Any) -> Any:
        if "grad_outputs" in options:
            raise RuntimeError("derivative for this operator is not implemented")
        return grad(outputs, *rest, **options)

    monkeypatch.setattr(torch.autograd, "grad", no_second_derivative)
    # Layers are moved by steps of their own, so what the layers have in common differs, and averages out.
    assert torch.allclose(traces(), exact, rtol=0.02)
    assert all(torch.equal(weight, before) for weight, before in zip(weights, trained, strict=True))
