"""Where a traced model's activations are quantized: once for each tensor that a device keeps as int8."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from train.activation_quantizer import ActivationQuantizer

_ADDS: set[Any] = {operator.add, operator.iadd, torch.add}
_POOLS: set[Any] = {F.adaptive_avg_pool2d, F.avg_pool2d, torch.mean, "mean"}
_FUSED_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Hardtanh)
_FUSED_FUNCTIONS: set[Any] = {F.relu, F.relu6, torch.relu, "relu", "relu_"}
_FUNCTIONS = (nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU, nn.GELU)
"""Activation functions that are no clamp: they take an int8 tensor to another."""
_COMPUTING_MODULES = (nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d, nn.AvgPool2d, *_FUNCTIONS)
_PRODUCTS: set[Any] = {operator.mul, operator.imul, torch.mul}


def insert_activation_quantizers(
    graph: fx.GraphModule, make: Callable[[], ActivationQuantizer], input_range: tuple[float, float] | None
) -> None:
    """Put a quantizer after every operation whose result is an int8 tensor on the device, and after the input.

    input_range: (lowest, highest) value of the input, where it is known; else it is calibrated.
    """
    for node in list(graph.graph.nodes):
        if node.op != "placeholder" and not _computes(graph, node):
            continue
        last = _end_of_fusion(graph, node)
        quantizer = make()
        if (rectified := _rectified(graph, last)) is not None:
            quantizer.rectifies = True
            last.replace_all_uses_with(rectified)
            graph.graph.erase_node(last)
            last = rectified
        if node.op == "placeholder" and input_range is not None:
            quantizer.fix_range(*input_range)
        name = f"{last.name}_quantizer"
        graph.add_submodule(name, quantizer)
        with graph.graph.inserting_after(last):
            quantized = graph.graph.call_module(name, (last,))
        last.replace_all_uses_with(quantized)
        quantized.args = (last,)
    graph.recompile()


def _rectified(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return what a ReLU is taken of, if the node is one: a quantizer whose grid begins at zero does its work."""
    is_module = node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), nn.ReLU)
    if not is_module and node.target not in {F.relu, torch.relu, "relu", "relu_"}:
        return None
    source = node.args[0]
    # What else takes the ReLU's input would be given the quantizer's output by replace_all_uses_with.
    return source if isinstance(source, fx.Node) and len(source.users) == 1 else None


def _computes(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node yields values on a grid of their own (and does not merely pass its input's on)."""
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), _COMPUTING_MODULES)
    return node.target in _ADDS | _PRODUCTS | _POOLS | {F.conv2d, F.linear}


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


def on_residual_paths(graph: fx.GraphModule) -> set[str]:
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
