"""Nodes of attention in TFLite: products of activations, and softmax and layer norm in float between int8 tensors."""

from dataclasses import replace

import numpy as np

from export.lowerings._tflite_file import Operator, schema
from export.lowerings._tflite_graph import Graph, require_multiplier
from msq.nodes import LayerNorm, MatMul, Node, Softmax, Tensor


def matmul(graph: Graph, node: MatMul) -> None:
    """Lower a product to BATCH_MATMUL.

    It has no place for the node's factor. Where there is one, the product lies on a grid that is coarser by the
    factor, and RESHAPE, which looks at no grid, gives its codes the grid that they have in truth.
    """
    left, right = (graph.model.tensors[name] for name in node.inputs)
    out = product = graph.target(node)
    require_multiplier(node, left.scale * right.scale * node.factor / out.scale)
    if node.factor != 1:
        product = replace(out, name=f"{out.name}/product", scale=float(np.float32(out.scale) / np.float32(node.factor)))
    graph.add(Operator.BATCH_MATMUL, graph.sources(node), product, schema.BatchMatMulOptionsT())
    if node.factor != 1:
        shape = graph.constant((1, *out.shape), np.int32)
        graph.add(Operator.RESHAPE, [graph.value(product), shape], out, schema.ReshapeOptionsT())
    graph.clip(node, out)


def softmax(graph: Graph, node: Softmax) -> None:
    """Lower a softmax to the one in float: that in int8 has a fixed grid, which is not the node's."""
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    x = _dequantized(graph, node)
    y = _real(node, "softmax", graph.out(node).shape)
    graph.add(Operator.SOFTMAX, [x], y, options)
    _quantized(graph, node, y)


def layer_norm(graph: Graph, node: LayerNorm) -> None:
    """Lower a layer norm to its arithmetic in float, in the unit of the input's codes."""
    shape = graph.out(node).shape
    row, last = (*shape[:-1], 1), graph.constant([len(shape)], np.int32)
    keep, n = schema.ReducerOptionsT(), shape[-1]
    keep.keepDims = True
    scale = graph.model.tensors[node.inputs[0]].scale
    x = _dequantized(graph, node)
    steps = {
        name: _real(node, name, size)
        for name, size in {
            "mean": row, "centred": shape, "squares": shape, "variance": row, "raised": row, "inverse": row,
            "normal": shape, "scaled": shape, "shifted": shape,
        }.items()
    }  # fmt: skip
    value = {name: graph.value(tensor) for name, tensor in steps.items()}
    epsilon = graph.constant(node.epsilon * (scale / n) ** 2, np.float32)
    gamma, beta = (graph.constant(array, np.float32) for array in (node.gamma, node.beta))
    graph.add(Operator.MEAN, [x, last], steps["mean"], keep)
    graph.add(Operator.SUB, [x, value["mean"]], steps["centred"], schema.SubOptionsT())
    graph.add(Operator.MUL, [value["centred"], value["centred"]], steps["squares"], schema.MulOptionsT())
    graph.add(Operator.MEAN, [value["squares"], last], steps["variance"], keep)
    graph.add(Operator.ADD, [value["variance"], epsilon], steps["raised"], schema.AddOptionsT())
    graph.add(Operator.RSQRT, [value["raised"]], steps["inverse"])
    graph.add(Operator.MUL, [value["centred"], value["inverse"]], steps["normal"], schema.MulOptionsT())
    graph.add(Operator.MUL, [value["normal"], gamma], steps["scaled"], schema.MulOptionsT())
    graph.add(Operator.ADD, [value["scaled"], beta], steps["shifted"], schema.AddOptionsT())
    _quantized(graph, node, steps["shifted"])


def _real(node: Node, name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(f"{node.output}/{name}", shape, "float32")


def _dequantized(graph: Graph, node: Node) -> int:
    real = _real(node, "real", graph.model.tensors[node.inputs[0]].shape)
    return graph.add(Operator.DEQUANTIZE, graph.sources(node), real, schema.DequantizeOptionsT())


def _quantized(graph: Graph, node: Node, real: Tensor) -> None:
    out = graph.target(node)
    graph.add(Operator.QUANTIZE, [graph.value(real)], out, schema.QuantizeOptionsT())
    graph.clip(node, out)
