"""Nodes without weights in a Relax module, and how a model's nodes become its functions."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from tvm import relax

from export.lowerings import _tvm_operators as operators
from export.lowerings._tvm_graph import Graph
from msq.integer_model import IntegerModel
from msq.nodes import (
    Add,
    AveragePool,
    Concat,
    Constant,
    Conv2d,
    Dequantize,
    Flatten,
    LayerNorm,
    Linear,
    Lookup,
    MatMul,
    MaxPool,
    Multiply,
    Node,
    Quantize,
    Reshape,
    Slice,
    Softmax,
    Tensor,
    Transpose,
)


class Layers(Protocol):
    """How layers of packed weights are said in the module."""

    def hold(self, graph: Graph, layers: Iterable[Conv2d | Linear]) -> None:
        """Let the state hold what they need."""
        ...

    def emit(self, graph: Graph, node: Node) -> bool:
        """Append the calls of a node if it is a layer, or done with one; say whether it is."""
        ...


def module(model: IntegerModel, weight_bytes: int, layers: Layers) -> tuple[Any, list[list[str]]]:
    """Return the module of a model, and the tensors that each call of its main function makes."""
    graph = Graph(model, weight_bytes)

    def load() -> None:
        layers.hold(graph, model.weighted())
        for node in model.nodes:
            if isinstance(node, Constant):
                graph.hold_copy(node, "codes", (1, *node.codes.shape))
            elif isinstance(node, Softmax | LayerNorm):
                for name in node.arrays():
                    graph.hold_copy(node, name)

    def run() -> None:
        for node in model.nodes:
            if not layers.emit(graph, node):
                _EMIT[type(node)](graph, node)

    return graph.module(load, run), graph.steps


def grid(node: Any, out: Tensor) -> list[float]:
    """Return the scalars of a node's output grid."""
    low, high = node.clamp
    return [low - out.zero_point, high - out.zero_point, out.zero_point]


def _tensors(graph: Graph, node: Node) -> list[Tensor]:
    return [graph.model.tensors[name] for name in (*node.inputs, node.output)]


def _ratio(scale: float, by: float) -> np.float32:
    return np.float32(scale) / np.float32(by)


def _quantize(graph: Graph, node: Quantize) -> None:
    out = graph.model.tensors[node.output]
    graph.expression(node, operators.quantize, graph.constant([out.scale, *grid(node, out)]))


def _dequantize(graph: Graph, node: Dequantize) -> None:
    source = graph.model.tensors[node.inputs[0]]
    graph.expression(node, operators.dequantize, graph.constant([source.zero_point, source.scale]))


def _add(graph: Graph, node: Add) -> None:
    left, right, out = _tensors(graph, node)
    ratios = [value for one in (left, right) for value in (one.zero_point, _ratio(one.scale, out.scale))]
    graph.expression(node, operators.add, graph.constant([*ratios, *grid(node, out)]))


def _multiply(graph: Graph, node: Multiply) -> None:
    left, right, out = _tensors(graph, node)
    multiplier = np.float32(left.scale) * np.float32(right.scale) / np.float32(out.scale)
    scalars = [left.zero_point, right.zero_point, multiplier, *grid(node, out)]
    graph.expression(node, operators.multiply, graph.constant(scalars))


def _lookup(graph: Graph, node: Lookup) -> None:
    graph.expression(node, operators.lookup, graph.constant(node.table, np.int8))


def _average_pool(graph: Graph, node: AveragePool) -> None:
    source, out = _tensors(graph, node)
    share = np.float32(1 / (source.shape[0] * source.shape[1]))
    multiplier = np.float32(source.scale) * share / np.float32(out.scale)
    scalars = [source.zero_point, multiplier, *grid(node, out)]
    graph.expression(node, operators.average_pool, graph.constant(scalars))


def _max_pool(graph: Graph, node: MaxPool) -> None:
    size = graph.model.tensors[node.output].shape[:2]
    graph.expression(node, operators.max_pool, node.kernel, node.stride, node.padding, size)


def _matmul(graph: Graph, node: MatMul) -> None:
    left, right, out = _tensors(graph, node)
    product = np.float32(left.scale) * np.float32(right.scale)
    multiplier = product * np.float32(node.factor) / np.float32(out.scale)
    scalars = [left.zero_point, right.zero_point, multiplier, *grid(node, out)]
    graph.expression(node, operators.matmul, graph.constant(scalars))


def _softmax(graph: Graph, node: Softmax) -> None:
    out = graph.model.tensors[node.output]
    scalars = graph.constant([out.scale, *grid(node, out)])
    graph.expression(node, operators.softmax, graph.held(node, "table"), scalars)


def _layer_norm(graph: Graph, node: LayerNorm) -> None:
    out = graph.model.tensors[node.output]
    scalars = graph.constant([node.epsilon, out.scale, *grid(node, out)])
    graph.expression(node, operators.layer_norm, graph.held(node, "gamma"), graph.held(node, "beta"), scalars)


def _reshape(graph: Graph, node: Flatten | Reshape) -> None:
    graph.operator(node, relax.op.reshape, (1, *graph.model.tensors[node.output].shape))


def _transpose(graph: Graph, node: Transpose) -> None:
    graph.operator(node, relax.op.permute_dims, [0, *(axis + 1 for axis in node.axes)])


def _concat(graph: Graph, node: Concat) -> None:
    graph.operator(node, lambda *parts: relax.op.concat(list(parts), node.axis + 1))


def _slice(graph: Graph, node: Slice) -> None:
    graph.operator(node, relax.op.strided_slice, [node.axis + 1], [node.start], [node.stop])


def _constant(graph: Graph, node: Constant) -> None:
    graph.let(node, graph.held(node, "codes"))


_EMIT: dict[type[Node], Callable[[Graph, Any], None]] = {
    Quantize: _quantize,
    Dequantize: _dequantize,
    Add: _add,
    AveragePool: _average_pool,
    Lookup: _lookup,
    Multiply: _multiply,
    MaxPool: _max_pool,
    Flatten: _reshape,
    MatMul: _matmul,
    Softmax: _softmax,
    LayerNorm: _layer_norm,
    Reshape: _reshape,
    Transpose: _transpose,
    Concat: _concat,
    Slice: _slice,
    Constant: _constant,
}
