"""Wrapping a user's model: what becomes a site, where activations are rounded, and that pruning is exact."""

import itertools
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from msq.checkpoint import InputSpec
from msq.errors import TrainingError
from msq.recipe import Budget
from train import fused, models
from train.activation_quantizer import ActivationQuantizer
from train.bit_pruner import BitPruner, PruningRule
from train.quantize import quantize
from train.weight_quantizer import WeightQuantizer


class Block(nn.Module):
    """A residual block as users write it: functional addition, one module an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.second, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.act(self.norm(self.first(x)))) + x)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("representation", ["sign_magnitude", "offset"])
@given(seed=st.integers(0, 2**16), n=st.integers(1, 7), per_channel=st.booleans())
def test_stored_codes_give_the_weights_that_were_trained(
    representation: str, seed: int, n: int, per_channel: bool
) -> None:
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    quantizer = WeightQuantizer(representation, n, per_channel)  # type: ignore[arg-type]
    codes, scale = quantizer.codes(weight)
    grid = quantizer.grid
    assert int(codes.max()) < 2**grid.bits
    integers = grid.a * codes.int() - grid.z
    assert torch.equal(integers * scale.reshape(-1, 1, 1, 1), quantizer.at(weight, n))
    torch.testing.assert_close(quantizer(weight), quantizer.at(weight, n), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("representation", ["sign_magnitude", "offset"])
@pytest.mark.parametrize("drop", [1, 2])
def test_dropping_empty_bits_changes_no_logit(representation: str, drop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: with the divisor 2^n, a model whose low bits are all empty is the same model with fewer bits.

    The largest weight of a channel is its own unit and always sits in the clamped top code, so the unit is held
    above it here: that one code is what a real prune still moves, by one step of the shorter code.
    """
    unit = torch.ones(1)

    monkeypatch.setattr(WeightQuantizer, "_top", lambda self, weight: unit.reshape([1] * weight.dim()))
    model = quantize(small(), lambda _: WeightQuantizer(representation, 6))  # type: ignore[arg-type]
    for site in model.sites:
        with torch.no_grad():
            site.weight.copy_(site.quantizer.at(site.weight.clamp(-0.7, 0.7), 6 - drop))
        assert site.quantizer.nonempty(site.weight, drop) == 0
    x = torch.randn(8, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), model.activations("calibrate"):
        model(x)
    before = model.eval()(x)
    for site in model.sites:
        site.quantizer.set_n(6 - drop)
    assert torch.equal(model(x), before)
    assert before.std() > 0


def test_every_int8_tensor_of_the_device_is_rounded_once() -> None:
    model = quantize(small())
    rounded = [
        node.args[0].name
        for node in model.graph.graph.nodes
        if node.op == "call_module" and isinstance(model.graph.get_submodule(node.target), ActivationQuantizer)
    ]
    # Input; stem after its ReLU; first conv after norm and ReLU; second conv; sum after its ReLU; pool; logits.
    assert len(rounded) == 7
    assert all("flatten" not in name for name in rounded)


def test_only_a_layer_that_a_residual_path_goes_round_may_be_removed() -> None:
    removable = {site.name for site in quantize(small()).sites if site.removable}
    assert removable == {"2.second"}


def test_of_a_block_and_its_projection_only_one_may_be_removed() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.shortcut = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.main(x) + self.shortcut(x)

    assert {site.name for site in quantize(Projected()).sites if site.removable} == {"main"}


def transformer(depth: int = 1) -> nn.Module:
    torch.manual_seed(0)
    spec = InputSpec(height=16, width=16, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    module = models.model("deit-tiny")
    return module.build(module.Options(depth=depth), spec, 5)


def test_a_transformer_is_rounded_where_a_device_keeps_int8() -> None:
    model = quantize(transformer())
    rounded = [
        node.args[0].name
        for node in model.graph.graph.nodes
        if node.op == "call_module" and isinstance(model.graph.get_submodule(node.target), ActivationQuantizer)
    ]
    assert rounded == [
        "x", "patch_embed_proj", "cat", "add", "blocks_0_norm1", "blocks_0_attn_qkv", "mul", "blocks_0_attn_softmax",
        "matmul_1", "blocks_0_attn_proj", "add_1", "blocks_0_norm2", "blocks_0_mlp_fc1", "blocks_0_mlp_act",
        "blocks_0_mlp_fc2", "add_2", "norm", "head",
    ]  # fmt: skip


def test_the_layers_that_end_a_block_of_a_transformer_may_be_removed() -> None:
    removable = {site.name for site in quantize(transformer(2)).sites if site.removable}
    assert removable == {f"blocks.{index}.{name}" for index in range(2) for name in ("attn.proj", "mlp.fc2")}


def test_calibration_leaves_ranges_that_are_known_beforehand() -> None:
    model = quantize(transformer(), input_range=(-2.5, 2.5))
    with torch.no_grad(), model.activations("calibrate"):
        model(torch.randn(4, 3, 16, 16))
    softmax = model.graph.get_submodule("blocks_0_attn_softmax_quantizer")
    assert (softmax.low, softmax.zero_point, softmax.high) == (-128, -128, 127)
    assert float(softmax.scale) == pytest.approx(1 / 255)
    assert float(model.graph.get_submodule("x_quantizer").scale) == pytest.approx(5 / 255)


def test_pruning_knows_the_curvature_of_a_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an operator has no second derivative")

    monkeypatch.setattr("train.hessian._by_differences", refuse)
    model = quantize(transformer())
    with torch.no_grad(), model.activations("calibrate"):
        model(torch.randn(4, 3, 16, 16))
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    pruner = BitPruner(model, PruningRule(), Budget(average_bits=4))
    pruner.prune(lambda: nn.functional.cross_entropy(model(images), labels), torch.Generator().manual_seed(0))
    assert all(pruner.trace[site.name] != 0 for site in model.sites)
    assert model.average_bits <= 4


def test_activation_gradient_is_lsqs() -> None:
    quantizer = ActivationQuantizer(4)
    quantizer.scale.data.fill_(0.3)
    x = torch.linspace(-4, 4.03, 97, requires_grad=True)  # no value half-way between two codes
    quantizer(x).sum().backward()
    v = x.detach() / 0.3
    inside = (v > -8) & (v < 7)
    expected = torch.where(inside, v.round() - v, v.round().clamp(-8, 7)).sum() / (97 * 7) ** 0.5
    assert torch.equal(x.grad, inside.float())  # type: ignore[arg-type]
    torch.testing.assert_close(quantizer.scale.grad, expected.reshape(1))


def test_rounding_agrees_with_torchs_own_fake_quantization() -> None:
    quantizer = ActivationQuantizer(8)
    quantizer.fix_range(-0.81, 2.02)
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    wanted = torch.fake_quantize_per_tensor_affine(
        x, float(quantizer.scale), quantizer.zero_point, quantizer.low, quantizer.high
    )
    torch.testing.assert_close(quantizer(x), wanted)


def test_widths_survive_a_state_dict() -> None:
    model, other = quantize(small()), quantize(small())
    model.sites[1].quantizer.set_n(3)
    other.load_state_dict(model.state_dict())
    assert other.bits() == model.bits()
    assert deepcopy(model).bits() == model.bits()


def test_a_model_whose_flow_depends_on_values_is_refused() -> None:
    class Wayward(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TrainingError, match="Wayward cannot be traced"):
        quantize(Wayward())


@pytest.mark.skipif(not fused._can_compile("cpu"), reason="no compiler on this machine: nothing is compiled")
@pytest.mark.parametrize("representation", ["sign_magnitude", "offset"])
def test_a_large_layers_compiled_weight_is_the_one_its_codes_say(representation: Any) -> None:
    wide = fused.SMALLEST // 256
    weights = [
        torch.randn(256, wide),
        torch.randn(512, wide),
        torch.randn(256, wide, 1, 1),
        torch.randn(64, wide, 3, 3),
    ]
    weights += [each.to(memory_format=torch.channels_last) for each in weights[2:]]
    for n, weight in itertools.product((7, 3, 1), weights):
        quantizer = WeightQuantizer(representation, n)
        codes, scale = quantizer.codes(weight)
        integers = quantizer.grid.a * codes.int() - quantizer.grid.z
        wanted = integers * scale.reshape(-1, *[1] * (weight.dim() - 1))
        torch.testing.assert_close(quantizer(weight), wanted, rtol=1e-6, atol=1e-6)
        small = torch.cat([quantizer.penalty_gradient(row, 1) for row in weight.split(16)])
        assert torch.equal(quantizer.penalty_gradient(weight, 1), small)
