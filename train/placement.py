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
_COMPUTING_MODULES = (
    nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.LayerNorm, nn.Softmax, *_FUNCTIONS,
)  # fmt: skip
_PRODUCTS: set[Any] = {operator.mul, operator.imul, torch.mul, operator.truediv, torch.div}
_MATRIX_PRODUCTS: set[Any] = {operator.matmul, torch.matmul, torch.bmm, "matmul"}
_SOFTMAXES: set[Any] = {F.softmax, torch.softmax, "softmax"}
_JOINS: set[Any] = {torch.cat, torch.concat}
_COMPUTING_FUNCTIONS = (
    _ADDS | _PRODUCTS | _POOLS | _MATRIX_PRODUCTS | _SOFTMAXES | _JOINS | {F.conv2d, F.linear, F.layer_norm}
)


def insert_activation_quantizers(
    graph: fx.GraphModule, make: Callable[[], ActivationQuantizer], input_range: tuple[float, float] | None
) -> None:
    """Put a quantizer after every operation whose result is an int8 tensor on the device, and after the input.

    input_range: (lowest, highest) value of the input, where it is known; else it is calibrated.
    """
    fused: set[fx.Node] = set()
    for node in list(graph.graph.nodes):
        if node.op != "placeholder" and not (_computes(graph, node) and node not in fused):
            continue
        last = _end_of_fusion(graph, node)
        fused.add(last)
        quantizer = make()
        if (rectified := _rectified(graph, last)) is not None:
            quantizer.rectifies = True
            last.replace_all_uses_with(rectified)
            graph.graph.erase_node(last)
            last = rectified
        if node.op == "placeholder" and input_range is not None:
            quantizer.fix_range(*input_range)
        if _is(graph, node, (nn.Softmax,), _SOFTMAXES):
            quantizer.fix_range(0.0, 1.0)
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
    return _is(graph, node, _COMPUTING_MODULES, _COMPUTING_FUNCTIONS)


def _is(graph: fx.GraphModule, node: fx.Node, modules: tuple[type[nn.Module], ...], functions: set[Any]) -> bool:
    """Whether a node calls one of these modules, or one of these functions."""
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), modules)
    return node.op in {"call_function", "call_method"} and node.target in functions


def _end_of_fusion(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Follow the batch norm and the activation function that a device runs as part of `node`.

    So it does the factor of a product of matrices.
    """
    while len(node.users) == 1:
        user = next(iter(node.users))
        scales = node.target in _MATRIX_PRODUCTS and user.target in _PRODUCTS and len(user.all_input_nodes) == 1
        if not scales and not _is(graph, user, _FUSED_MODULES, _FUSED_FUNCTIONS):
            break
        node = user
    return node


def on_residual_paths(graph: fx.GraphModule) -> set[str]:
    """Return the layers that only feed an addition whose other input does not pass through them.

    Of one addition's inputs at most one may vanish: the layer with the most weights.
    """
    found: dict[fx.Node, list[str]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module" and _is(graph, node, (nn.Conv2d, nn.Linear), set()):
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
