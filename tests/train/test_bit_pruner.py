"""MSQ's rule: the budget is met and not overshot, and insensitive layers go first."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from msq.checkpoint import Representation
from msq.errors import BudgetError, RecipeError
from msq.packing import packed_size
from msq.recipe import Budget, LatencyBudget
from train.bit_pruner import BitPruner, PruningRule
from train.quantize import QuantizedModel, quantize
from train.target import Target
from train.weight_quantizer import WeightQuantizer


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(81, 4))


def calibrated(representation: Representation = "sign_magnitude") -> QuantizedModel:
    start = 7 if representation == "sign_magnitude" else 8
    model = quantize(net(), lambda _: WeightQuantizer(representation, start))
    with torch.no_grad(), model.activations("calibrate"):
        model(torch.randn(16, 1, 7, 7))
    return model


def look(pruner: BitPruner) -> None:
    """Look at β, under a loss whose curvature is positive in every layer."""
    x = torch.randn(16, 1, 7, 7)
    pruner.prune(lambda: pruner.model(x).square().mean(), torch.Generator().manual_seed(pruner.event))


@given(target=st.floats(2.0, 8.0), events=st.integers(1, 6), hessian=st.booleans())
@settings(max_examples=15)
def test_the_budget_is_met_in_time_and_overshot_by_less_than_a_bit_of_a_layer(
    target: float, events: int, hessian: bool
) -> None:
    model = calibrated()
    pruner = BitPruner(model, PruningRule(hessian_samples=2 * hessian), Budget(average_bits=target))
    pruner.set_events(events)
    for _ in range(events):
        if not pruner.done:
            look(pruner)
    assert pruner.done
    assert target - max(site.numel for site in model.sites) / model.weights < model.average_bits <= target
    assert all(site.quantizer.n >= 1 for site in model.sites)


def test_insensitive_layers_lose_two_bits_at_once_only_with_the_hessian() -> None:
    for samples, drops in ((4, {1, 2}), (0, {1})):
        pruner = BitPruner(calibrated(), PruningRule(hessian_samples=samples), Budget(average_bits=6))
        pruner.set_events(8)
        look(pruner)
        assert set(pruner.drop.values()) == drops


@pytest.mark.parametrize("representation", ["sign_magnitude", "offset"])
def test_a_look_leaves_the_l1_term_beta_omega_and_bits_to_draw(representation: Representation) -> None:
    pruner = BitPruner(calibrated(representation), PruningRule(representation=representation), Budget(average_bits=6))
    pruner.set_events(3)
    assert pruner.seen == {}
    look(pruner)
    expected = 0.0
    for site in pruner.model.sites:
        name, weight, n = site.name, site.weight.detach().double().numpy(), site.quantizer.n
        assert pruner.seen[f"bits/{name}"] == site.quantizer.stored_bits
        assert (pruner.seen[f"beta/{name}"], pruner.seen[f"omega/{name}"]) == pruner.measures()[name]
        top = np.abs(weight).reshape(len(weight), -1).max(1).reshape(-1, *[1] * (weight.ndim - 1))
        unit = np.abs(weight) / top if representation == "sign_magnitude" else weight / (2 * top) + 0.5
        fewer = n - pruner.drop[name]
        code, rest = (np.minimum(np.rint(2**bits * unit), 2**bits - 1) for bits in (n, fewer))
        expected += np.abs(code - 2 ** (n - fewer) * rest).sum() / 2**n
    assert pruner.seen["l1"] == pytest.approx(pruner.rule.strength * expected, rel=1e-3)
    while not pruner.done:
        look(pruner)
    assert pruner.seen["l1"] == 0
    assert pruner.seen["average_bits"] == pruner.model.average_bits


def test_without_keeping_pace_only_layers_below_alpha_lose_bits() -> None:
    model = calibrated()
    pruner = BitPruner(model, PruningRule(keep_pace=False, alpha=0.4, hessian_samples=0), Budget(average_bits=3))
    first = model.sites[0].weight
    with torch.no_grad():
        # Even codes of seven bits, and in every channel the largest weight, which is the unit and always odd.
        first.copy_(2 * torch.arange(first.numel()).remainder(60).reshape(first.shape) / 128)
        first[:, 0, 0, 0] = 1
    look(pruner)
    lost = {site.name: 8 - site.quantizer.stored_bits for site in model.sites}
    assert lost == {"0": 1, "2": 0, "5": 0}


def test_small_layers_do_not_bleed_for_the_last_bits_of_a_budget() -> None:
    """Near the budget a large layer's bit overshoots; it still goes where small ones would suffer more."""
    model = calibrated()
    pruner = BitPruner(model, PruningRule(hessian_samples=0, alpha=0), Budget(average_bits=6.8))
    for site in model.sites:
        site.quantizer.set_n(6 if site.numel < 300 else 7)
    small, _, large = sorted(model.sites, key=lambda site: site.numel)
    assert model.average_bits * model.weights - 6.8 * model.weights > small.numel
    look(pruner)
    assert pruner.done
    assert large.quantizer.n < 7
    assert small.quantizer.n >= 6


@pytest.mark.parametrize(("representation", "least"), [("sign_magnitude", 2), ("offset", 1)])
def test_a_budget_below_the_smallest_widths_is_refused(representation: str, least: float) -> None:
    model = calibrated(representation)  # type: ignore[arg-type]
    rule = PruningRule(representation=representation)  # type: ignore[arg-type]
    BitPruner(model, rule, Budget(average_bits=least))
    with pytest.raises(BudgetError, match="is below"):
        BitPruner(model, rule, Budget(average_bits=least - 0.01))


def test_state_survives_and_leads_to_the_same_widths() -> None:
    torch.manual_seed(1)
    models = [calibrated(), calibrated()]
    models[1].load_state_dict(models[0].state_dict())
    pruners = [BitPruner(model, PruningRule(), Budget(average_bits=4)) for model in models]
    for pruner in pruners:
        pruner.set_events(4)
    torch.manual_seed(2)
    look(pruners[0])
    models[1].load_state_dict(models[0].state_dict())
    pruners[1].load_state_dict(pruners[0].state_dict())
    for pruner in pruners:
        torch.manual_seed(3)
        look(pruner)
        look(pruner)
    assert models[0].bits() == models[1].bits()
    assert pruners[0].state_dict() == pruners[1].state_dict()


@given(target=st.floats(2.2, 7.8))
@settings(max_examples=15)
def test_what_a_large_drop_saved_too_much_is_given_back(target: float) -> None:
    """At most the bits of the smallest layer that is not full stay unspent."""
    model = calibrated()
    pruner = BitPruner(model, PruningRule(hessian_samples=0), Budget(average_bits=target))
    look(pruner)
    spare = pruner.target.limit - pruner.target.size()
    assert 0 <= spare < min(site.numel for site in model.sites if site.quantizer.stored_bits < 8)


def test_a_budget_in_kilobytes_counts_whole_panels_and_blocks() -> None:
    model = calibrated()
    pruner = BitPruner(model, PruningRule(hessian_samples=0), Budget(kilobytes=1.5))
    look(pruner)
    packed = sum(packed_size(s.shape[0], s.numel // s.shape[0], s.quantizer.stored_bits) for s in model.sites)
    scales_and_biases = 8 * (6 + 9 + 4)
    assert 0.9 * 1536 < packed + scales_and_biases <= 1536


def test_a_latency_table_decides_which_layers_lose_bits(tmp_path: Path) -> None:
    table = {"0": [0.0] + [1.0] * 8, "2": [float(bits) for bits in range(9)], "5": [0.0] + [1.0] * 8}
    (tmp_path / "table.json").write_text(json.dumps(table))
    model = calibrated()
    budget = Budget(latency=LatencyBudget(ms=6, table=tmp_path / "table.json"))
    look(BitPruner(model, PruningRule(hessian_samples=0, alpha=0), budget))
    assert model.bits() == {"0": 8, "2": 4, "5": 8}


def test_a_latency_table_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(RecipeError, match="layer 0"):
        Target(Budget(latency=LatencyBudget(ms=6, table=tmp_path / "table.json")), calibrated())


def test_a_net_that_ends_above_its_budget_is_told_which_layers_hold_it_back() -> None:
    with pytest.raises(BudgetError, match=r"8.00 bits a weight, the budget is 3.00.*5 at 8 bits"):
        Target(Budget(average_bits=3), calibrated()).check()
