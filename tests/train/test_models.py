"""One suite for every model: a new file in train/models is tested by being there."""

import pytest
import torch
from torch import fx, nn

from msq.checkpoint import InputSpec
from msq.errors import UsageError
from train import models


def build(name: str, height: int = 32, width: int = 32, channels: int = 3, classes: int = 10) -> nn.Module:
    spec = InputSpec(height=height, width=width, channels=channels, mean=(0.5,) * channels, std=(0.2,) * channels)
    module = models.model(name)
    return module.build(module.Options(), spec, classes)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


every_model = pytest.mark.parametrize("name", models.names())


def test_the_models_that_ship_are_found_by_name():
    assert {"resnet8", "resnet20"} <= set(models.names())


def test_an_unknown_model_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="unknown model 'resnet9'") as caught:
        models.model("resnet9")
    assert "resnet" in caught.value.hint


@every_model
@pytest.mark.parametrize(("height", "width", "channels", "classes"), [(28, 28, 1, 10), (33, 17, 3, 2), (8, 9, 4, 100)])
def test_any_size_and_number_of_channels_gives_logits(name, height, width, channels, classes):
    model = build(name, height, width, channels, classes).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, channels, height, width)).shape == (2, classes)


@every_model
def test_a_traced_model_computes_the_same(name):
    model = build(name).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(fx.symbolic_trace(model)(images), model(images))


@every_model
def test_every_module_is_used_in_one_place(name):
    used = [node.target for node in fx.symbolic_trace(build(name)).graph.nodes if node.op == "call_module"]
    assert len(used) == len(set(used))


@every_model
def test_nothing_is_computed_in_place(name):
    assert not any(getattr(module, "inplace", False) for module in build(name).modules())


@every_model
def test_convolutions_leave_the_bias_to_batch_norm(name):
    model = fx.symbolic_trace(build(name))
    for node in model.graph.nodes:
        if node.op == "call_module" and isinstance(model.get_submodule(node.target), nn.BatchNorm2d):
            assert model.get_submodule(node.args[0].target).bias is None


@every_model
def test_the_seed_decides_the_initial_weights(name):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build(name).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@every_model
def test_initial_outputs_neither_vanish_nor_explode(name):
    torch.manual_seed(0)
    model = build(name)
    with torch.no_grad():
        spread = model(torch.randn(16, 3, 32, 32)).std()
    assert 0.1 < spread < 20


def test_resnet8_has_the_size_of_the_one_in_mlperf_tiny():
    # There 78,666 with convolution biases and running statistics, and without batch norm on the shortcuts.
    model = build("resnet8")
    assert parameters(model) == 78_042
    kernels = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert kernels == 77_360


@pytest.mark.parametrize(("name", "paper"), [("resnet20", 0.27e6), ("resnet32", 0.46e6), ("resnet56", 0.85e6)])
def test_the_deeper_ones_have_the_size_of_the_paper_and_convolution_shortcuts(name, paper):
    # arXiv 1512.03385, table 6, rounds to 10,000; its shortcuts have no parameters.
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert abs(parameters(build(name)) - shortcuts - paper) < 6_000


def test_deit_tiny_has_the_parameters_of_timms_deit_tiny_patch16_224():
    model = build("deit-tiny", 224, 224, 3, 1000)
    assert parameters(model) == 5_717_416
    names = {name for name, _ in model.named_parameters()}
    modules = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    paths = ["patch_embed.proj", "norm", "head", *(f"blocks.{index}.{name}" for index in range(12) for name in modules)]
    assert names == {"cls_token", "pos_embed", *(f"{path}.{name}" for path in paths for name in ("weight", "bias"))}


def test_attention_is_torchs_multi_head_attention():
    torch.manual_seed(0)
    attention = build("deit-tiny").blocks[0].attn
    torchs = nn.MultiheadAttention(192, 3, batch_first=True)
    torchs.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight, "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.proj.weight, "out_proj.bias": attention.proj.bias,
        }
    )  # fmt: skip
    tokens = torch.randn(2, 17, 192)
    torch.testing.assert_close(attention(tokens), torchs(tokens, tokens, tokens)[0])


def test_the_width_scales_every_stage():
    module = models.model("resnet8")
    spec = InputSpec(height=32, width=32, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    model = module.build(module.Options(width=4), spec, 10)
    assert {m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)} == {4, 8, 16}


def test_a_resnet_can_be_exported_with_any_batch_size():
    model = build("resnet8").eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(program.module()(images), model(images), atol=1e-5)
