"""Captured nets against torch's own fake-quantized run of them, and what capture refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from export.capture import capture, run_program
from msq.checkpoint import IMAGES_FILE, TENSORS_FILE, Checkpoint
from msq.errors import BundleError, LoweringError, MsqError
from msq.integer_model import IntegerModel
from msq.nodes import Conv2d
from msq.preprocessing import normalise
from runtimes.reference import ReferenceSession


def captured(folder: Path) -> IntegerModel:
    return capture(folder, Checkpoint.open(folder))


def images_of(folder: Path) -> np.ndarray:
    spec = Checkpoint.open(folder).input
    return normalise(np.load(folder / IMAGES_FILE), spec.mean, spec.std)


def steps_apart(model: IntegerModel, left: np.ndarray, right: np.ndarray) -> int:
    scale = model.tensors[model.nodes[-1].inputs[0]].scale
    return int(np.rint(np.abs(left.astype(np.float64) - right) / scale).max())


@pytest.mark.parametrize("widths", [(8,), (8, 4, 3, 2, 1), (5, 7, 6)])
@pytest.mark.parametrize("kind", ["Flattening", "Map"])
def test_integer_model_equals_torch_within_1_lsb(nets, make_checkpoint, kind: str, widths: tuple[int, ...]):
    torch.manual_seed(1)
    folder = make_checkpoint(getattr(nets, kind)(), widths)
    model, images = captured(folder), images_of(folder)
    trained = run_program(folder, Checkpoint.open(folder), images)
    assert len(np.unique(trained)) > 10
    assert steps_apart(model, trained, ReferenceSession(model).run(images)) <= 1


def test_residual_net_equals_torch_within_1_lsb_when_torch_rounds_its_operands(nets, make_checkpoint):
    torch.manual_seed(2)
    net = nets.Residual()
    folder = make_checkpoint(net, (8, 5, 3))
    model, images = captured(folder), images_of(folder)
    net.block1.round_operands = net.block2.round_operands = True
    with torch.no_grad():
        simulated = net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert len(np.unique(simulated)) > 10
    assert steps_apart(model, simulated, ReferenceSession(model).run(images)) <= 1


def test_attention_equals_torch_within_1_lsb(nets, make_checkpoint):
    torch.manual_seed(3)
    folder = make_checkpoint(nets.Tokens(), (8,))
    model, images = captured(folder), images_of(folder)
    trained = run_program(folder, Checkpoint.open(folder), images)
    assert len(np.unique(trained)) > 10
    assert steps_apart(model, trained, ReferenceSession(model).run(images)) <= 1


class OnTokens(nn.Module):
    """A function of the tokens that an image's pixels are, between two fake-quantizations."""

    def __init__(self, nets, function) -> None:
        super().__init__()
        self.image, self.conv = nets.signed(), nn.Sequential(nn.Conv2d(3, 6, 3, 3), nets.signed())
        self.function, self.result = function, nets.signed()
        self.parameter = nn.Parameter(torch.randn(16, 6))

    def forward(self, x):
        return self.result(self.function(self, self.conv(self.image(x))))


def tokens(x):
    return x.flatten(2).transpose(1, 2)


MEANT = {
    "positions": lambda net, x: tokens(x) + net.parameter,
    "positions as a map": lambda net, x: x + net.parameter.t().reshape(6, 4, 4),
    "a gain": lambda net, x: tokens(x) * net.parameter[:1],
    "one parameter twice": lambda net, x: torch.cat([tokens(x), net.parameter.expand(x.shape[0], -1, -1)] * 2, 1),
    "tokens": lambda net, x: tokens(x) + x.permute(0, 2, 3, 1).flatten(1, 2),
    "a map again": lambda net, x: torch.max_pool2d(tokens(x).transpose(1, 2).unflatten(2, (4, 4)), 2) * 2.0,
    "columns": lambda net, x: torch.softmax(x.flatten(2), -1),
    "maps joined": lambda net, x: torch.cat([x, torch.max_pool2d(x, 3, 1, 1)], 1),
    "tokens joined": lambda net, x: torch.cat([tokens(x), tokens(x)[:, 3:5]], 1),
    "normal maps": lambda net, x: nn.functional.layer_norm(x.permute(0, 2, 3, 1), (6,)),
    "covariance": lambda net, x: torch.matmul(x.flatten(2), tokens(x)) / 16,
}


@pytest.mark.parametrize("name", MEANT)
def test_tokens_and_maps_mean_what_they_mean_in_torch(nets, make_checkpoint, name: str):
    folder = make_checkpoint(OnTokens(nets, MEANT[name]), (8,))
    model, images = captured(folder), images_of(folder)
    trained = run_program(folder, Checkpoint.open(folder), images)
    found = ReferenceSession(model).run(images)
    if name != "normal maps" and trained.ndim == 4:
        trained = trained.transpose(0, 2, 3, 1)  # a map is channels last in the integer model
    assert found.shape == trained.shape
    assert steps_apart(model, trained, found) <= 2


def test_patches_become_tokens_without_being_moved(nets, make_checkpoint):
    model = captured(make_checkpoint(OnTokens(nets, MEANT["tokens"]), (8,)))
    assert [node.kind for node in model.nodes] == ["quantize", "conv2d", "reshape", "reshape", "add", "dequantize"]


def test_negative_gains_become_negative_scales(residual_checkpoint: Path):
    scales = np.concatenate([node.weight.scale for node in captured(residual_checkpoint).weighted()])
    assert (scales < 0).any()
    assert (scales > 0).any()


def test_codes_are_those_of_the_checkpoint(residual_checkpoint: Path):
    arrays = load_file(residual_checkpoint / TENSORS_FILE)
    for node in captured(residual_checkpoint).weighted():
        codes = node.weight.codes()
        if isinstance(node, Conv2d):
            codes = codes.transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(codes, arrays[f"{node.name}.codes"])


def test_nodes_carry_the_module_paths_of_the_model(residual_checkpoint: Path):
    model = captured(residual_checkpoint)
    modules = {node.name: node.module for node in model.nodes}
    assert [node.module for node in model.weighted()] == [
        site.name for site in Checkpoint.open(residual_checkpoint).sites
    ]
    assert {modules[name] for name in modules if name.startswith("add")} == {"block1", "block2"}


def test_a_relu_is_a_clamp_at_the_zero_point_and_narrow_codes_keep_their_range(nets, make_checkpoint):
    model = captured(make_checkpoint(nets.Flattening()))
    clamps = {node.name: node.clamp for node in model.weighted()}
    assert clamps["depthwise.0"] == (0, 15)
    assert clamps["conv.0"] == (-128, 127)
    assert model.tensors["conv.0.out"].zero_point == -128


def test_a_layer_without_bits_stores_nothing(nets, make_checkpoint):
    model = captured(make_checkpoint(nets.Map(), (0, 4)))
    layer = next(model.weighted())
    assert (layer.weight.bits, layer.weight.packed.size) == (0, 0)


@pytest.mark.parametrize("average", ["mean", "avg_pool2d"])
def test_other_spellings_of_the_global_average_are_captured(nets, make_checkpoint, average: str):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.pooled, self.result = nets.signed(), nets.signed(), nets.signed()
            self.fc = nn.Linear(3, 5)

        def forward(self, x):
            x = self.image(x)
            x = x.mean((2, 3)) if average == "mean" else nn.functional.avg_pool2d(x, 12).flatten(1)
            return self.result(self.fc(self.pooled(x)))

    folder = make_checkpoint(Net(), (8,))
    model, images = captured(folder), images_of(folder)
    trained = run_program(folder, Checkpoint.open(folder), images)
    assert steps_apart(model, trained, ReferenceSession(model).run(images)) <= 1


def refused(folder: Path) -> MsqError:
    with pytest.raises((LoweringError, BundleError)) as caught:
        captured(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def test_an_unknown_operator_is_refused_by_module_path(nets, make_checkpoint):
    net = nets.Map()
    net.conv[1] = nn.Tanhshrink()
    error = refused(make_checkpoint(net))
    assert str(error).startswith("conv.1: operator aten.tanh.default")
    assert "aten.conv2d.default" in error.hint


def test_an_activation_without_a_grid_is_refused_by_module_path(nets, make_checkpoint):
    net = nets.Map()
    net.conv[2] = nn.Identity()
    assert str(refused(make_checkpoint(net))).startswith("classifier.1: aten.linear.default")


def test_a_result_without_a_grid_is_refused(nets, make_checkpoint):
    net = nets.Map()
    net.classifier[2] = nn.Identity()
    assert "output" in str(refused(make_checkpoint(net)))


def test_a_batch_norm_behind_a_grid_is_refused_by_module_path(nets, make_checkpoint):
    net = nets.Map()
    net.conv.append(nn.BatchNorm2d(4))
    net.conv.append(nets.signed())
    assert str(refused(make_checkpoint(net))).startswith("conv.3: aten.batch_norm.default")


def test_a_partial_average_is_refused_by_module_path(nets, make_checkpoint):
    net = nets.Map()
    net.conv.append(nn.AdaptiveAvgPool2d(3))
    net.conv.append(nets.signed())
    assert str(refused(make_checkpoint(net))).startswith("conv.3: aten.adaptive_avg_pool2d.default")


REFUSED = {
    "the batch": lambda net, x: tokens(x).transpose(0, 1),
    "joins batches": lambda net, x: torch.cat([x, x]),
    "cuts the batch": lambda net, x: tokens(x)[:1],
    "step of 1": lambda net, x: tokens(x)[:, ::2],
    "last dimension": lambda net, x: torch.softmax(tokens(x), 1),
    "layer norm over the last dimension": lambda net, x: nn.functional.layer_norm(tokens(x), (16, 6)),
    "division by a number": lambda net, x: tokens(x) / net.parameter,
    "without a fake-quantization": lambda net, x: torch.matmul(torch.matmul(tokens(x), x.flatten(2)), tokens(x)),
    "scaled_dot_product_attention": lambda net, x: nn.functional.scaled_dot_product_attention(*[tokens(x)] * 3),
    "cannot be an operand": lambda net, x: tokens(x) + net.parameter / 0,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_done_to_tokens_is_refused_with_its_reason(nets, make_checkpoint, reason: str):
    assert reason in str(refused(make_checkpoint(OnTokens(nets, REFUSED[reason]), (8,))))


def test_a_layer_that_is_not_quantized_is_refused_by_its_path(nets, make_checkpoint):
    folder = make_checkpoint(nets.Map())
    checkpoint = Checkpoint.open(folder)
    fewer = checkpoint.model_copy(update={"sites": checkpoint.sites[:1]})
    with pytest.raises(LoweringError, match=r"classifier\.1: this linear is not among"):
        capture(folder, fewer)


def test_codes_that_are_not_the_program_s_weights_are_refused(nets, make_checkpoint):
    folder = make_checkpoint(nets.Map())
    checkpoint = Checkpoint.open(folder)
    arrays = load_file(folder / TENSORS_FILE)
    arrays["conv.0.codes"][0, 0, 0, 0] ^= 1
    save_file(arrays, folder / TENSORS_FILE)
    with pytest.raises(BundleError, match=r"conv\.0: 1 codes are not the weights"):
        capture(folder, checkpoint)


def test_a_program_of_another_torch_is_refused(nets, make_checkpoint):
    folder = make_checkpoint(nets.Map())
    checkpoint = Checkpoint.open(folder).model_copy(update={"versions": {"torch": "1.13.0"}})
    with pytest.raises(BundleError, match=r"program\.pt2: torch 1\.13\.0 wrote it"):
        capture(folder, checkpoint)
