"""One call makes a user's torch model quantized: `quantize(model, example)`; its layers become sites."""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from msq.checkpoint import Representation
from msq.errors import TrainingError
from train.activation_quantizer import ActivationQuantizer
from train.weight_quantizer import WeightQuantizer

_ADDS: set[Any] = {operator.add, operator.iadd, torch.add}
_POOLS: set[Any] = {F.adaptive_avg_pool2d, F.avg_pool2d, torch.mean, "mean"}
_FUSED_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Hardtanh)
_FUSED_FUNCTIONS: set[Any] = {F.relu, F.relu6, torch.relu, "relu", "relu_"}
_COMPUTING_MODULES = (nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class Site:
    """One quantized layer of a model. removable: the layer may end at width 0, for a residual path goes round it."""

    name: str
    op: Literal["conv2d", "linear"]
    layer: nn.Conv2d | nn.Linear
    removable: bool

    @property
    def quantizer(self) -> WeightQuantizer:
        """The layer's weight quantizer."""
        quantizer = self.layer.parametrizations["weight"][0]  # type: ignore[index]
        assert isinstance(quantizer, WeightQuantizer)
        return quantizer

    @property
    def weight(self) -> nn.Parameter:
        """The float weight that is trained."""
        original: nn.Parameter = self.layer.parametrizations["weight"].original  # type: ignore[index,union-attr]
        return original

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.weight.numel()


class QuantizedModel(nn.Module):
    """A user's model with quantized weights and activations. Train it like any other module.

    graph is the traced model, with an ActivationQuantizer after every operation whose result will be an int8
    tensor on the device; sites are the quantized layers in the order in which they run.
    """

    def __init__(self, graph: fx.GraphModule, sites: list[Site]) -> None:
        super().__init__()
        self.graph = graph
        self.sites = sites

    def forward(self, x: Tensor) -> Tensor:
        """Run the model: x float32 (N, C, H, W)."""
        result: Tensor = self.graph(x)
        return result

    def activation_quantizers(self) -> Iterator[ActivationQuantizer]:
        """Yield every activation quantizer."""
        return (module for module in self.graph.modules() if isinstance(module, ActivationQuantizer))

    @property
    def average_bits(self) -> float:
        """Stored bits a weight, signs included, over all sites."""
        return sum(site.quantizer.stored_bits * site.numel for site in self.sites) / self.weights

    @property
    def weights(self) -> int:
        """Number of quantized weights."""
        return sum(site.numel for site in self.sites)

    def bits(self) -> dict[str, int]:
        """Return the stored bits of every site, by name."""
        return {site.name: site.quantizer.stored_bits for site in self.sites}

    @contextmanager
    def activations(self, mode: Literal["calibrate", "float"]) -> Iterator[None]:
        """Run with activation quantizers that observe or pass through; calibration sets their grids at the end."""
        quantizers = list(self.activation_quantizers())
        for quantizer in quantizers:
            quantizer.mode = mode
        try:
            yield
        finally:
            for quantizer in quantizers:
                quantizer.mode = "quantize"
        if mode == "calibrate":
            for quantizer in quantizers:
                quantizer.finish_calibration()


def quantize(
    model: nn.Module,
    *,
    representation: Representation = "sign_magnitude",
    levels: int | None = None,
    per_channel: bool = True,
    activation_bits: int = 8,
    learned_range: bool = True,
    input_range: tuple[float, float] | None = None,
) -> QuantizedModel:
    """Return the model with every Conv2d and Linear quantized and every int8 activation marked.

    Args:
        model: a module that torch.fx can trace; its layers are taken over, not copied.
        representation: see WeightQuantizer. levels: code bits n at the start; default: 8 stored bits.
        activation_bits: 2..8. learned_range: train the activations' scales.
        input_range: (lowest, highest) value the input can take, where it is known; else it is calibrated.
    Raises:
        TrainingError: the model cannot be traced, or has nothing to quantize.
    """
    try:
        graph = fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"{type(model).__name__} cannot be traced: {reason}",
            hint="control flow must not depend on tensor values; wrap such code with torch.fx.wrap",
        ) from None
    start = levels if levels is not None else (7 if representation == "sign_magnitude" else 8)
    removable = _on_residual_paths(graph)
    sites: list[Site] = []
    for name, layer in graph.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            quantizer = WeightQuantizer(representation, start, per_channel)
            parametrize.register_parametrization(layer, "weight", quantizer, unsafe=True)
            op: Literal["conv2d", "linear"] = "conv2d" if isinstance(layer, nn.Conv2d) else "linear"
            sites.append(Site(name, op, layer, name in removable))
    if not sites:
        raise TrainingError(f"{type(model).__name__} has no Conv2d or Linear layer to quantize")
    _insert_activation_quantizers(graph, lambda: ActivationQuantizer(activation_bits, learned_range), input_range)
    return QuantizedModel(graph, sites)


def _insert_activation_quantizers(
    graph: fx.GraphModule, make: Callable[[], ActivationQuantizer], input_range: tuple[float, float] | None
) -> None:
    for node in list(graph.graph.nodes):
        if node.op != "placeholder" and not _computes(graph, node):
            continue
        last = _end_of_fusion(graph, node)
        quantizer = make()
        if node.op == "placeholder" and input_range is not None:
            quantizer.fix_range(*input_range)
        name = f"{last.name}_quantizer"
        graph.add_submodule(name, quantizer)
        with graph.graph.inserting_after(last):
            quantized = graph.graph.call_module(name, (last,))
        last.replace_all_uses_with(quantized)
        quantized.args = (last,)
    graph.recompile()


def _computes(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node yields values on a grid of their own (and does not merely pass its input's on)."""
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), _COMPUTING_MODULES)
    return node.target in _ADDS | _POOLS | {F.conv2d, F.linear}


def _end_of_fusion(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Follow the batch norm and the activation function that a device runs as part of `node`."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.op == "call_module":
            fused = isinstance(graph.get_submodule(str(user.target)), _FUSED_MODULES)
        else:
            fused = user.target in _FUSED_FUNCTIONS
        if not fused:
            break
        node = user
    return node


def _on_residual_paths(graph: fx.GraphModule) -> set[str]:
    """Return the layers that only feed an addition whose other input does not pass through them.

    Of one addition's inputs at most one may vanish: the layer with the most weights.
    """
    found: dict[fx.Node, list[str]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), nn.Conv2d):
            last = _end_of_fusion(graph, node)
            if len(last.users) == 1 and (join := next(iter(last.users))).target in _ADDS:
                others = [other for other in join.all_input_nodes if other is not last]
                if others and all(node not in _ancestors(other) for other in others):
                    found.setdefault(join, []).append(str(node.target))
    return {max(names, key=lambda name: _weights(graph, name)) for names in found.values()}


def _weights(graph: fx.GraphModule, name: str) -> int:
    weight = graph.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.numel()


def _ancestors(node: fx.Node) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting.extend(current.all_input_nodes)
    return seen
