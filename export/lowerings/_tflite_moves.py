"""Nodes that compute nothing, or nothing that could be rounded otherwise, in TFLite: stock operators in every file."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from export.lowerings._tflite_file import Operator, schema
from export.lowerings._tflite_graph import Graph
from msq.nodes import Concat, Constant, Dequantize, Flatten, Node, Reshape, Slice, Transpose


def _dequantize(graph: Graph, node: Dequantize) -> None:
    graph.add(Operator.DEQUANTIZE, graph.sources(node), graph.out(node), schema.DequantizeOptionsT())


def _reshape(graph: Graph, node: Flatten | Reshape) -> None:
    shape, options = (1, *graph.out(node).shape), schema.ReshapeOptionsT()
    options.newShape = list(shape)
    graph.add(Operator.RESHAPE, [*graph.sources(node), graph.constant(shape, np.int32)], graph.out(node), options)


def _transpose(graph: Graph, node: Transpose) -> None:
    axes = graph.constant((0, *(axis + 1 for axis in node.axes)), np.int32)
    graph.add(Operator.TRANSPOSE, [*graph.sources(node), axes], graph.out(node), schema.TransposeOptionsT())


def _concat(graph: Graph, node: Concat) -> None:
    options = schema.ConcatenationOptionsT()
    options.axis = node.axis + 1
    graph.add(Operator.CONCATENATION, graph.sources(node), graph.out(node), options)


def _slice(graph: Graph, node: Slice) -> None:
    out = graph.out(node)
    begin = [0] * (len(out.shape) + 1)
    begin[node.axis + 1] = node.start
    bounds = [graph.constant(values, np.int32) for values in (begin, (1, *out.shape))]
    graph.add(Operator.SLICE, [*graph.sources(node), *bounds], out, schema.SliceOptionsT())


def _constant(graph: Graph, node: Constant) -> None:
    graph.hold(graph.out(node), node.codes)


EMIT: Mapping[type[Node], Callable[[Graph, Any], None]] = {
    Dequantize: _dequantize,
    Flatten: _reshape,
    Reshape: _reshape,
    Transpose: _transpose,
    Concat: _concat,
    Slice: _slice,
    Constant: _constant,
}
