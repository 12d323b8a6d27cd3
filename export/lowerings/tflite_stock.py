"""TFLite files of stock operators, for LiteRT as released: every tensor keeps the integer model's name and grid.

Weights lie in the narrowest container that LiteRT runs well (runtimes/_litert_weights.py), so a file is larger than
its bits where layers have widths that TFLite lacks. Activation functions are tables, exact as everywhere. LiteRT
rounds sums, pools and products of activations in its own way; softmax and layer norm are float between int8 tensors.
model.tflite takes one image. probe.tflite has every node as a graph of its own: it serves verification.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from export.lowerings import _tflite_layers, _tflite_moves, _tflite_runtimes, _tflite_tokens
from export.lowerings._tflite_file import File, Operator, Type, schema
from export.lowerings._tflite_graph import Graph, require_multiplier
from msq.integer_model import IntegerModel
from msq.nodes import (
    Add,
    AveragePool,
    Constant,
    Conv2d,
    LayerNorm,
    Linear,
    Lookup,
    MatMul,
    MaxPool,
    Multiply,
    Node,
    Quantize,
    Softmax,
)
from runtimes import _litert_weights

NAME = "tflite-stock"
MODEL_FILE = "model.tflite"
PROBE_FILE = "probe.tflite"
DEPLOYED = (MODEL_FILE,)
PACKAGES = ("ai-edge-litert",)
SIGNATURE = "serving_default"

_CHANNEL_BYTES = 4 + 2 * (4 + 8)
"""Bias; scale and zero point of weights and of bias, whose zero points are int64."""

Containers = Literal["narrowest", "int8"]


def content_bytes(model: IntegerModel) -> int:
    """Return the bytes of weights in LiteRT's containers, of their parameters as TFLite has them, and of constants."""
    total = 0
    for node in model.nodes:
        if isinstance(node, Conv2d | Linear):
            total += _litert_weights.held(node) + _CHANNEL_BYTES * node.weight.outputs
        elif not isinstance(node, Softmax):
            total += sum(array.nbytes for array in node.arrays().values())
    return total


def lower(model: IntegerModel, folder: Path) -> list[str]:
    """Write model.tflite and probe.tflite."""
    (folder / MODEL_FILE).write_bytes(build(model))
    (folder / PROBE_FILE).write_bytes(build_probe(model))
    return [MODEL_FILE, PROBE_FILE]


def good_for(folder: Path) -> tuple[str, ...]:
    """Return the runtimes that run model.tflite of a folder."""
    return _tflite_runtimes.good_for((folder / MODEL_FILE).read_bytes())


def build(model: IntegerModel, *, containers: Containers = "narrowest") -> bytes:
    """Return the model as a .tflite file.

    Args:
        containers: of the weights: the narrowest that LiteRT has for a layer, or int8 for all.
    Raises:
        LoweringError: TFLite cannot say what a layer says; the message names its module.
    """
    file = File("integer model, made by msq")
    graph = Graph(file, model, "main", narrow=containers == "narrowest")
    for node in model.nodes:
        _EMIT[type(node)](graph, node)
    graph.close([model.input], [model.output])
    graph.sign(file, SIGNATURE)
    return file.content()


def build_probe(model: IntegerModel) -> bytes:
    """Return a .tflite file with a signature a node, named as the node; constants are part of what reads them."""
    file, constants = File("every node of a model, made by msq"), {}
    for node in model.nodes:
        if isinstance(node, Constant):
            constants[node.output] = node
            continue
        graph = Graph(file, model, node.name, narrow=True)
        given = dict.fromkeys(node.inputs)
        for name in given.keys() & constants.keys():
            _tflite_moves.EMIT[Constant](graph, constants[name])
        _EMIT[type(node)](graph, node)
        graph.close([name for name in given if name not in constants], [node.output])
        graph.sign(file, node.name)
    return file.content()


def _quantize(graph: Graph, node: Quantize) -> None:
    out = graph.target(node)
    graph.add(Operator.QUANTIZE, graph.sources(node), out, schema.QuantizeOptionsT())
    graph.clip(node, out)


def _add(graph: Graph, node: Add) -> None:
    out = graph.out(node)
    require_multiplier(node, max(graph.model.tensors[name].scale for name in node.inputs) / out.scale)
    _binary(graph, node, Operator.ADD, schema.AddOptionsT())


def _multiply(graph: Graph, node: Multiply) -> None:
    left, right, out = (graph.model.tensors[name] for name in (*node.inputs, node.output))
    require_multiplier(node, left.scale * right.scale / out.scale)
    _binary(graph, node, Operator.MUL, schema.MulOptionsT())


def _binary(graph: Graph, node: Add | Multiply, operator: int, options: Any) -> None:
    options.fusedActivationFunction, out = graph.fused(node)
    graph.add(operator, graph.sources(node), out, options)
    graph.clip(node, out)


def _lookup(graph: Graph, node: Lookup) -> None:
    out, cast = graph.out(node), schema.CastOptionsT()
    cast.inDataType, cast.outDataType = Type.INT8, Type.INT32
    code = graph.add(Operator.CAST, graph.sources(node), graph.index(f"{out.name}/code", out.shape), cast)
    places = graph.index(f"{out.name}/place", out.shape)
    graph.add(Operator.ADD, [code, graph.constant(128, np.int32)], places, schema.AddOptionsT())
    graph.add(Operator.GATHER, [graph.constant(node.table, np.int8, out), places], out, schema.GatherOptionsT())


_EMIT: Mapping[type[Node], Callable[[Graph, Any], None]] = {
    **_tflite_moves.EMIT,
    Quantize: _quantize,
    Conv2d: _tflite_layers.conv2d,
    Linear: _tflite_layers.linear,
    Add: _add,
    AveragePool: _tflite_layers.average_pool,
    Lookup: _lookup,
    Multiply: _multiply,
    MaxPool: _tflite_layers.max_pool,
    MatMul: _tflite_tokens.matmul,
    Softmax: _tflite_tokens.softmax,
    LayerNorm: _tflite_tokens.layer_norm,
}
