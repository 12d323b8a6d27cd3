"""What every method must do, and what each rival's own mathematics says (P8)."""

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from msq.bitmap import BitMap
from msq.checkpoint import InputSpec
from msq.errors import BudgetError, RecipeError
from msq.plugins import load, names
from msq.recipe import Activations, Budget
from train import signed_quantizer
from train.methods import bsq, csq, hawq, lsq
from train.quantize import QuantizedModel
from train.target import Target
from train.weight_quantizer import WeightQuantizer

SPEC = InputSpec(height=8, width=8, channels=1, mean=(0.5,), std=(0.25,))
METHODS = names("train.methods")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(108, 4),
    )  # fmt: skip


def wrapped(name: str, **options: Any) -> tuple[Any, Any, QuantizedModel]:
    method = load("train.methods", name, "method")
    chosen = method.Options(**options)
    return method, chosen, method.wrap(small(), chosen, Activations(), SPEC)


def read(quantizer: Any, codes: Tensor, scale: Tensor) -> Tensor:
    """Return the weight that stored codes mean, as every runtime reads them."""
    grid = quantizer.grid
    integers = grid.a * codes.float() - grid.z if grid.bits else torch.zeros(codes.shape)
    return integers * scale.reshape(-1, *[1] * (codes.dim() - 1))


@pytest.mark.parametrize("name", METHODS)
def test_stored_integers_are_the_weights_that_the_net_runs_with(name: str) -> None:
    method, options, model = wrapped(name)
    for phase in method.phases(model, options, Budget(average_bits=4), 0):
        if phase.name.endswith("finetune"):
            phase.begin()
    for site in model.sites:
        codes, scale = site.codes()
        assert int(codes.max()) < 1 << site.quantizer.stored_bits
        torch.testing.assert_close(read(site.quantizer, codes, scale), site.layer.weight.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_budget_below_what_a_method_can_reach_is_refused_before_training(name: str) -> None:
    method, options, model = wrapped(name)
    with pytest.raises(BudgetError, match="budget"):
        method.phases(model, options, Budget(average_bits=0.5), 0)


@pytest.mark.parametrize(("name", "sets"), [("msq", 1), ("lsq", 1), ("dorefa", 1), ("bsq", 14), ("csq", 14)])
def test_bit_level_methods_train_two_sets_of_bits_a_weight_and_msq_one_number(name: str, sets: int) -> None:
    _, _, model = wrapped(name)
    assert all(sum(part.numel() for part in site.trained) == sets * site.numel for site in model.sites)


@given(integers=st.lists(st.integers(-127, 127), min_size=2, max_size=40))
def test_bits_of_a_weight_make_the_weight_again(integers: list[int]) -> None:
    values = torch.tensor(integers, dtype=torch.float32)
    torch.testing.assert_close(signed_quantizer.join(signed_quantizer.split(values.abs(), 7)) * values.sign(), values)


def with_integers(integers: Tensor, n: int, scale: float) -> Any:
    _, _, model = wrapped("bsq")
    site = model.sites[1]
    bsq.set_integers(site, integers.reshape(site.shape), n, scale)
    return site


@given(shift=st.integers(0, 4), top=st.integers(1, 7), scale=st.floats(0.01, 10))
@settings(max_examples=30)
def test_dropping_empty_planes_changes_no_weight(shift: int, top: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(shift * 8 + top)
    largest = min(1 << top, 128) >> shift
    values = torch.randint(-largest, largest + 1, (864,), generator=generator) * (1 << shift)
    site = with_integers(values.clamp(-127 >> shift << shift, 127 >> shift << shift).float(), 7, scale)
    before = site.layer.weight.detach().clone()
    bsq.set_integers(site, *bsq.drop_empty(*bsq.to_integers(site)))
    torch.testing.assert_close(site.layer.weight.detach(), before)
    present = bsq.to_integers(site)[0]
    assert site.quantizer.n == 1 or bool(torch.remainder(present, 2).any())


def test_planes_that_grew_get_one_more_and_the_weight_stays() -> None:
    site = with_integers(torch.full((864,), 3.0), 3, 1.0)
    with torch.no_grad():
        site.trained[0][2] += 1.6
    grown = signed_quantizer.join(site.trained[0] - site.trained[1]).round() / 7
    bsq.set_integers(site, *bsq.to_integers(site))
    assert site.quantizer.n == 4
    torch.testing.assert_close(site.layer.weight.detach(), grown.detach())


def test_the_group_lassos_gradient_is_that_of_its_norms() -> None:
    planes = [torch.rand(3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    squares = sum(part.flatten(1).square().sum(1) for part in planes)
    (0.7 * 3 * torch.sqrt(1e-8 + squares)).sum().backward()  # type: ignore[arg-type]
    found = bsq.group_lasso((planes[0].detach(), planes[1].detach()), 0.7)
    torch.testing.assert_close(found[0], planes[0].grad)
    torch.testing.assert_close(found[1], planes[1].grad)


@pytest.mark.parametrize("bits", [2, 3, 4.4])
def test_bsq_meets_the_budget_at_its_last_requantization(bits: float) -> None:
    _, options, model = wrapped("bsq")
    callback = bsq.Bsq(model, options, Budget(average_bits=bits))
    callback.requantize(last=True)
    assert bits - 1 < model.average_bits <= bits


def test_a_saved_state_brings_the_number_of_its_planes() -> None:
    _, options, model = wrapped("bsq")
    other = copy.deepcopy(model)
    bsq.Bsq(model, options, Budget(average_bits=3)).requantize(last=True)
    other.load_state_dict(model.state_dict())
    assert other.bits() == model.bits()
    for left, right in zip(model.sites, other.sites, strict=True):
        assert torch.equal(left.layer.weight, right.layer.weight)


def test_hot_soft_bits_are_the_hard_ones() -> None:
    _, _, model = wrapped("csq")
    for site in model.sites:
        quantizer = site.quantizer
        assert isinstance(quantizer, csq.GatedBits)
        with torch.no_grad():
            quantizer.gates[2], quantizer.gates[6] = -0.4, -0.2
            quantizer.temperature.fill_(1e4)
        codes, scale = site.codes()
        torch.testing.assert_close(site.layer.weight.detach(), read(quantizer, codes, scale), atol=1e-6, rtol=1e-5)
        assert (quantizer.paper_bits, quantizer.stored_bits) == (5, 7)


@pytest.mark.parametrize(("bits", "sign"), [(7.9, 1), (8.0, 0)])
def test_the_budgets_gradient_turns_at_the_budget(bits: float, sign: int) -> None:
    _, options, model = wrapped("csq")
    found = csq.Csq(model, options, Budget(average_bits=bits)).budget_gradient()
    assert all(bool((torch.sign(gradient) == sign).all()) for gradient in found)


def test_below_the_budget_gates_are_opened() -> None:
    _, options, model = wrapped("csq")
    for site in model.sites:
        with torch.no_grad():
            site.quantizer.gates[:4] = -1  # type: ignore[index]
    found = csq.Csq(model, options, Budget(average_bits=6)).budget_gradient()
    assert all(bool((gradient < 0).all()) for gradient in found)


@pytest.mark.parametrize("bits", [2, 3.3, 5])
def test_hardening_meets_the_budget_and_leaves_one_float_a_weight(bits: float) -> None:
    _, options, model = wrapped("csq")
    csq.Csq(model, options, Budget(average_bits=bits)).harden()
    assert model.average_bits <= bits
    assert all(len(site.trained) == 1 for site in model.sites)


def test_an_lsq_step_gets_the_papers_gradient() -> None:
    weight = torch.linspace(-1, 1.013, 40).reshape(2, 20)
    quantizer = lsq.LsqQuantizer(weight, 3)
    quantizer(weight.requires_grad_()).sum().backward()
    ratio = weight.detach() / quantizer.step.detach().reshape(2, 1)
    inside = torch.where((ratio > -4) & (ratio < 3), ratio.round() - ratio, ratio.round().clamp(-4, 3))
    torch.testing.assert_close(quantizer.step.grad, inside.sum(1) / (20 * 3) ** 0.5)


@given(seed=st.integers(0, 2**16), bits=st.integers(2, 8))
def test_an_lsq_weight_half_way_between_two_codes_is_stored_as_it_is_used(seed: int, bits: int) -> None:
    quantizer = lsq.LsqQuantizer(torch.randn(8, 40, generator=torch.Generator().manual_seed(seed)), bits)
    rows = quantizer.step.detach().reshape(8, 1)
    weight = (torch.arange(40) - 19.5) * rows
    codes, scale = quantizer.codes(weight)
    stored = (codes.float() - quantizer.grid.z) * scale.reshape(8, 1)
    assert ((quantizer(weight) - stored).abs() < 1e-3 * rows).all()


def brute_force(harm: np.ndarray[Any, Any], size: np.ndarray[Any, Any], limit: float) -> float:
    rows = range(len(harm))
    choices = itertools.product(range(harm.shape[1]), repeat=len(harm))
    fitting = [c for c in choices if sum(size[i, c[i]] for i in rows) <= limit]
    return float(min(sum(harm[i, c[i]] for i in rows) for c in fitting))


@given(seed=st.integers(0, 10_000), layers=st.integers(1, 4), spare=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_hawqs_allocation_is_the_best_there_is(seed: int, layers: int, spare: float) -> None:
    random = np.random.default_rng(seed)
    harm = -np.sort(-random.exponential(size=(layers, 4)), axis=1)
    size = np.outer(random.integers(10, 1000, layers), [2.0, 3.0, 4.0, 8.0])
    least, most = size.min(1).sum(), size.max(1).sum()
    limit = np.floor(least + spare * (most - least)) + 0.5
    chosen = hawq.allocate(harm, size, limit)
    rows = np.arange(layers)
    assert size[rows, chosen].sum() <= limit
    assert harm[rows, chosen].sum() == pytest.approx(brute_force(harm, size, limit), rel=1e-6, abs=1e-9)


def test_of_two_equal_layers_the_more_sensitive_gets_no_fewer_bits() -> None:
    _, options, model = wrapped("hawq")
    target = Target(Budget(average_bits=4), model)
    hawq.Allocation(model, options, target, 0).choose([1.0, 1e6, 1.0])
    bits = list(model.bits().values())
    assert bits[1] >= max(bits[0], bits[2])
    assert target.size() <= target.limit


def test_a_bit_map_gives_every_layer_its_width(tmp_path: Path) -> None:
    widths = {"0": 5, "3": 2, "6": 8}
    BitMap(bits=widths).write(tmp_path / "map.json")
    _, _, model = wrapped("lsq", bit_map=tmp_path / "map.json")
    assert model.bits() == widths


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        ({"0": 5, "3": 2, "6": 4, "stem": 1}, "names stem"),
        ({"0": 5}, "no width for 3, 6"),
        ({"0": 1, "3": 2, "6": 4}, "0 has 1 bit"),
        ({"0": 5, "3": 2, "6": 0}, "6 has 0 bits"),
    ],
)
def test_a_bit_map_that_does_not_fit_the_model_is_refused(tmp_path: Path, bits: dict[str, int], said: str) -> None:
    BitMap(bits=bits).write(tmp_path / "map.json")
    with pytest.raises(RecipeError, match=said):
        wrapped("lsq", bit_map=tmp_path / "map.json")


def test_widths_come_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave bits"):
        lsq.Options(bits=4, bit_map=tmp_path / "map.json")


def test_first_and_last_layer_can_have_a_width_of_their_own() -> None:
    method, options, model = wrapped("lsq", first_last_bits=8)
    method.phases(model, options, Budget(average_bits=4.9), 0)
    assert list(model.bits().values()) == [8, 3, 8]


def test_a_layer_whose_gates_all_closed_keeps_its_strongest_where_no_path_goes_round_it() -> None:
    _, options, model = wrapped("csq")
    for site in model.sites:
        with torch.no_grad():
            csq._gated(site).gates.copy_(torch.linspace(-2, -1, csq.BITS))
    csq.Csq(model, options, Budget(average_bits=3)).harden()
    assert set(model.bits().values()) == {2}


@given(seed=st.integers(0, 2**16), bits=st.integers(2, 8), per_channel=st.booleans(), steps=st.floats(1e-4, 10))
@settings(max_examples=60)
def test_lsqs_stored_integers_are_its_weights_bit_for_bit(
    seed: int, bits: int, per_channel: bool, steps: float
) -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) * steps
    quantizer = lsq.LsqQuantizer(weight, bits, per_channel)
    with torch.no_grad():
        quantizer.step.mul_(torch.rand(quantizer.step.shape, generator=torch.Generator().manual_seed(seed)) + 0.5)
    assert torch.equal(read(quantizer, *quantizer.codes(weight)), quantizer(weight))


def test_lsqs_step_has_the_papers_gradient() -> None:
    weight = torch.randn(6, 50, dtype=torch.float64)
    quantizer = lsq.LsqQuantizer(weight, 3, per_channel=False).double()
    upstream = torch.randn_like(weight)
    quantizer(weight).backward(upstream)
    ratio = weight / quantizer.step.detach()
    slope = torch.where(ratio <= -4, -4.0, torch.where(ratio >= 3, 3.0, ratio.round() - ratio))
    assert quantizer.step.grad is not None
    torch.testing.assert_close(quantizer.step.grad, ((upstream * slope).sum() / (300 * 3) ** 0.5).reshape(1))


@given(seed=st.integers(0, 2**16), per_channel=st.booleans())
@settings(max_examples=20)
def test_more_bits_never_cost_more_error(seed: int, per_channel: bool) -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(seed))
    errors = [hawq.least_error(weight, bits, per_channel) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


@given(traces=st.lists(st.floats(0.01, 1e4), min_size=2, max_size=2), limit=st.integers(4, 15))
@settings(max_examples=40)
def test_of_two_like_layers_the_more_sensitive_gets_no_fewer_bits(traces: list[float], limit: int) -> None:
    error = np.array([4.0**-bits for bits in range(2, 9)])
    harm = np.array([trace * error for trace in traces])
    size = np.array([range(2, 9)] * 2, float)
    low, high = sorted(range(2), key=lambda layer: traces[layer])
    chosen = hawq.allocate(harm, size, limit)
    assert chosen[high] >= chosen[low] or traces[low] == traces[high]


@pytest.mark.parametrize("representation", ["sign_magnitude", "offset"])
def test_an_l1_term_on_dorefas_low_bits_shrinks_weights_and_on_roundclamps_does_not(representation: Any) -> None:
    """P5: descent on |B| alone at n = 4."""
    torch.manual_seed(0)
    start = torch.randn(20_000).reshape(1, -1)
    moved = {}
    for rounding in ("roundclamp", "dorefa"):
        quantizer = WeightQuantizer(
            representation, 4, rounding=rounding, divisor="2^n" if rounding == "roundclamp" else "2^n-1"
        )
        weight, top = start.clone(), start.abs().max()
        before = quantizer.nonempty(weight, 1)
        for _ in range(400):
            weight -= 5e-4 * quantizer.penalty_gradient(weight, 1)
            # The unit of the normalisation stays what it was.
            weight[0, start.abs().argmax()] = start[0, start.abs().argmax()]
        value = (lambda w: w.abs()) if representation == "sign_magnitude" else (lambda w: w)
        moved[rounding] = float((value(weight) - value(start)).mean() / top)
        if rounding == "roundclamp":
            assert quantizer.nonempty(weight, 1) < 0.02 < before
    assert abs(moved["roundclamp"]) < 0.002
    assert moved["dorefa"] < -0.005
