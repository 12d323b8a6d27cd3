"""What an activation quantizer computes, and which gradients it gives; compared with the papers' formulas."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from train import fused
from train.activation_quantizer import ActivationQuantizer


def quantizer_of(x: Tensor, bits: int = 4, **options: Any) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(bits, **options)
    quantizer.mode = "calibrate"
    quantizer(x * 0.7)
    quantizer.finish_calibration()
    quantizer.mode = "quantize"
    return quantizer


def backward(quantizer: ActivationQuantizer, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    quantizer(x).backward(upstream)
    assert x.grad is not None and quantizer.scale.grad is not None
    return x.grad, quantizer.scale.grad


@given(seed=st.integers(0, 2**16), bits=st.integers(2, 8), rectifies=st.booleans())
@settings(max_examples=40)
def test_results_lie_on_the_grid_and_are_the_nearest(seed: int, bits: int, rectifies: bool) -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(seed))
    quantizer = quantizer_of(x, bits, rectifies=rectifies)
    found, scale = quantizer(x).detach(), quantizer.scale.detach()
    grid = scale * torch.arange(quantizer.low, quantizer.high + 1)
    wanted = (torch.relu(x) if rectifies else x)[:, None].sub(grid).abs().amin(1)
    torch.testing.assert_close((found[:, None] - grid).abs().amin(1), torch.zeros(50), atol=1e-6, rtol=0)
    torch.testing.assert_close((found - (torch.relu(x) if rectifies else x)).abs(), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rectifies", [False, True])
def test_the_learned_scale_has_lsqs_gradient(rectifies: bool) -> None:
    x, upstream = torch.randn(200), torch.randn(200)
    quantizer = quantizer_of(x, rectifies=rectifies)
    through, slope = backward(quantizer, x, upstream)
    ratio = x / quantizer.scale.detach()
    low, high = quantizer.low, quantizer.high
    inside = (ratio > low) & (ratio < high)
    each = torch.where(inside, ratio.round() - ratio, ratio.clamp(low, high))
    torch.testing.assert_close(through, upstream * inside)
    torch.testing.assert_close(slope, ((upstream * each).sum() / (200 * high) ** 0.5).reshape(1))


def test_pacts_clip_has_pacts_gradient() -> None:
    """Compared with autograd through clip(x, 0, α), rounded straight through: equations 1 to 3."""
    x, upstream = torch.randn(200), torch.randn(200)
    quantizer = quantizer_of(x, range="pact", rectifies=True)
    through, slope = backward(quantizer, x, upstream)
    alpha = (quantizer.scale.detach() * quantizer.high).requires_grad_()
    inner = x.clone().requires_grad_()
    (0.5 * (inner.abs() - (inner - alpha).abs() + alpha)).backward(upstream)
    assert inner.grad is not None and alpha.grad is not None
    torch.testing.assert_close(through, inner.grad)
    torch.testing.assert_close(slope * quantizer.high, alpha.grad)
    assert (x > alpha).any()


@pytest.mark.skipif(not fused._can_compile("cpu"), reason="no compiler on this machine: nothing is compiled")
def test_large_tensors_give_what_small_ones_give(monkeypatch: pytest.MonkeyPatch) -> None:
    x, upstream = torch.randn(2, fused.SMALLEST), torch.randn(2, fused.SMALLEST)
    quantizer = quantizer_of(x)
    compiled = (quantizer(x).detach(), *backward(quantizer, x, upstream))
    quantizer.scale.grad = None
    monkeypatch.setattr(fused, "_can_compile", lambda device: False)
    plain = (quantizer(x).detach(), *backward(quantizer, x, upstream))
    assert torch.equal(compiled[0], plain[0]) and torch.equal(compiled[1], plain[1])
    torch.testing.assert_close(compiled[2], plain[2], rtol=1e-4, atol=1e-4)
