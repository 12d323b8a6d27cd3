"""P1 to P5: what RoundClamp and bipartite bit slicing promise, with DoReFa as the negative control."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msq.errors import BudgetError
from train.roundclamp import dorefa, lsb_residue, roundclamp
from train.weight_quantizer import WeightQuantizer

WIDTHS = [(n, k) for n in range(1, 9) for k in range(1, n + 1)]
# Odd multiples keep clear of the bins' boundaries, where half-to-even is only a convention.
GRID = (2 * torch.arange(1 << 16) + 1).double().div(1 << 17).float()


@pytest.mark.parametrize(("n", "k"), WIDTHS)
def test_code_is_the_shorter_code_and_a_bounded_residue(n: int, k: int) -> None:
    code, shorter, residue = roundclamp(GRID, n), roundclamp(GRID, n - k), lsb_residue(GRID, n, k)
    assert torch.equal(code, 2**k * shorter + residue)
    assert residue.min() >= -(2 ** (k - 1))
    assert residue.max() <= 2**k - 1
    unclamped = torch.round(GRID * 2 ** (n - k)) <= 2 ** (n - k) - 1
    assert residue[unclamped].abs().max() <= 2 ** (k - 1)


@pytest.mark.parametrize("n", range(9))
def test_a_negative_weights_code_is_the_negative_of_its_magnitudes(n: int) -> None:
    assert torch.equal(roundclamp(-GRID, n), -roundclamp(GRID, n))
    assert torch.equal(dorefa(-GRID, n), -dorefa(GRID, n))


@pytest.mark.parametrize("n", range(2, 9))
def test_boundaries_of_the_shorter_code_are_centres_of_the_longer_ones_bins(n: int) -> None:
    boundary = (2 * torch.arange(2 ** (n - 1) - 1) + 1).float() / 2**n
    below, above = torch.nextafter(boundary, torch.zeros(())), torch.nextafter(boundary, torch.ones(()))
    assert torch.equal(roundclamp(above, n - 1) - roundclamp(below, n - 1), torch.ones_like(boundary))
    assert torch.equal(roundclamp(below, n), roundclamp(above, n))
    assert torch.equal(boundary * 2**n, roundclamp(boundary, n))


@pytest.mark.parametrize("n", range(3, 9))
def test_dorefas_boundaries_are_not_centres(n: int) -> None:
    boundary = (2 * torch.arange(2 ** (n - 1) - 1).double() + 1) / (2**n - 2)
    centre = boundary * (2**n - 1)
    assert not torch.allclose(centre, torch.round(centre), atol=1e-3)


@pytest.mark.parametrize(("n", "share"), [(8, 0.50), (4, 0.50), (3, 0.50), (2, 0.52)])
def test_low_bits_of_offset_gaussians_are_as_likely_to_round_up_as_down(n: int, share: float) -> None:
    w = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    w = w / (2 * w.abs().max()) + 0.5
    residue = lsb_residue(w, n, 1)
    assert (residue[residue != 0] > 0).float().mean() == pytest.approx(share, abs=0.01)
    naive = dorefa(w, n) - 2 * dorefa(w, n - 1)
    assert (naive[naive != 0] > 0).float().mean() > 0.95


@pytest.mark.parametrize("n", range(1, 9))
def test_even_codes_have_empty_low_bits_and_odd_ones_split_evenly(n: int) -> None:
    code, residue = roundclamp(GRID, n), lsb_residue(GRID, n, 1)
    assert (residue[code % 2 == 0] == 0).all()
    interior = (code % 2 == 1) & (code < 2**n - 1)
    if interior.any():
        assert (residue[interior] > 0).float().mean() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("representation", ["sign_magnitude", "offset"])
@given(seed=st.integers(0, 2**16), n=st.integers(2, 7), k=st.integers(1, 2))
def test_penalty_points_along_the_residue_and_a_step_brings_the_shorter_code_nearer(
    representation: str, seed: int, n: int, k: int
) -> None:
    weight = torch.randn(4, 50, generator=torch.Generator().manual_seed(seed))
    quantizer = WeightQuantizer(representation, n)  # type: ignore[arg-type]
    gradient = quantizer.penalty_gradient(weight, k)
    normalised = quantizer.normalised(weight)
    residue = lsb_residue(normalised, n, k)
    assert torch.equal(torch.sign(gradient), torch.sign(residue))
    moved = normalised - 1e-4 * torch.sign(residue)
    shorter = roundclamp(normalised, n - k) / 2 ** (n - k)
    busy = (residue != 0) & (normalised.abs() <= (2 ** (n - k) - 1) / 2 ** (n - k)) & (moved * normalised >= 0)
    assert ((moved - shorter).abs()[busy] < (normalised - shorter).abs()[busy]).all()


def test_gradient_through_both_roundings_cancels_to_nothing() -> None:
    """The negative control: why the shorter code is held constant."""

    def straight_through(w: torch.Tensor, n: int) -> torch.Tensor:
        return w * 2**n + (roundclamp(w, n) - w * 2**n).detach()

    w = torch.rand(1000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    naive = (straight_through(w, 4) - 2 * straight_through(w, 3)).abs().sum()
    assert torch.autograd.grad(naive, w)[0].abs().max() == 0
    held = (straight_through(w, 4) - 2 * straight_through(w, 3).detach()).abs().sum()
    slope = torch.autograd.grad(held, w)[0]
    assert torch.equal(slope, 16 * torch.sign(lsb_residue(w.detach(), 4, 1)))


@pytest.mark.parametrize("representation", ["sign_magnitude", "offset"])
def test_descent_on_the_penalty_alone_empties_low_bits_without_shrinking_weights(representation: str) -> None:
    w = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    w = w.abs() / w.abs().max() if representation == "sign_magnitude" else w / (2 * w.abs().max()) + 0.5
    dropped, linear = w.clone(), w.clone()
    for _ in range(400):
        dropped -= 5e-4 * torch.sign(lsb_residue(dropped, 4, 1))
        linear -= 5e-4 * torch.sign(dorefa(linear, 4) - 2 * dorefa(linear, 3))
    assert (lsb_residue(dropped, 4, 1) != 0).float().mean() < 0.01
    assert abs(float(dropped.mean() - w.mean())) < 0.003
    assert float(linear.mean() - w.mean()) < -0.005


def test_dropping_more_bits_than_there_are_is_refused() -> None:
    with pytest.raises(BudgetError, match="cannot drop 3 bits of 2"):
        lsb_residue(torch.rand(3), 2, 3)
