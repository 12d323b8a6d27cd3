"""TFLite files with packed weights, for LiteRT with our delegate (runtimes/delegate).

What computes is a custom operator "msq.<kind>" each, with exactly the integer model's arithmetic: its activations are
inputs, its arrays constants behind them in the order of msq/nodes.py, weights packed as everywhere and at multiples of
64 bytes; what else model.json says of the node is its options, a FlexBuffer. What only moves codes, and the
dequantization, which no runtime can round in another way, are stock operators. So a viewer shows every node, other
operators can be put before, between and behind them, and the whole model gives the oracle's integers. probe.tflite is
the same graph with every int8 tensor as an output: it serves verification.
"""

from pathlib import Path
from typing import Any

import numpy as np
from flatbuffers import flexbuffers

from export.lowerings import _tflite_moves, _tflite_runtimes
from export.lowerings._tflite_file import File
from export.lowerings._tflite_graph import KINDS, Graph
from msq.integer_model import IntegerModel, node_to_json
from msq.nodes import Array, Lookup, Node

NAME = "tflite"
MODEL_FILE = "model.tflite"
PROBE_FILE = "probe.tflite"
DEPLOYED = (MODEL_FILE,)
PACKAGES = ("ai-edge-litert",)
SIGNATURE = "serving_default"
PREFIX = "msq."

_KNOWN = {"kind", "name", "module", "inputs", "output", "table"}
"""What model.json says of a node, and an operator by its place in the graph. So like operators share their options."""


def content_bytes(model: IntegerModel) -> int:
    """Return the bytes of the weights' bits and of the parameters: the format has every width."""
    return model.weight_bytes + model.parameter_bytes


def lower(model: IntegerModel, folder: Path) -> list[str]:
    """Write model.tflite and probe.tflite."""
    tensors = [tensor.name for tensor in model.tensors.values() if tensor.dtype == "int8"]
    (folder / MODEL_FILE).write_bytes(build(model, [model.output]))
    (folder / PROBE_FILE).write_bytes(build(model, [model.output, *tensors]))
    return [MODEL_FILE, PROBE_FILE]


def good_for(folder: Path) -> tuple[str, ...]:
    """Return the runtimes that run model.tflite of a folder."""
    return _tflite_runtimes.good_for((folder / MODEL_FILE).read_bytes())


def build(model: IntegerModel, outputs: list[str]) -> bytes:
    """Return the model as a .tflite file. outputs: names of the tensors that it gives."""
    file = File("integer model, made by msq")
    graph = Graph(file, model, "main")
    for node in model.nodes:
        _tflite_moves.EMIT.get(type(node), _packed)(graph, node)
    graph.close([model.input], outputs)
    graph.sign(file, SIGNATURE)
    return file.content()


def _packed(graph: Graph, node: Node) -> None:
    constants = [
        graph.parameter(name, data, KINDS[data.dtype.name], data.shape)
        for name, data in _arrays(node).items()
        if data.size
    ]
    graph.add_custom(f"{PREFIX}{node.kind}", [*graph.sources(node), *constants], graph.out(node), _options(node))


def _options(node: Node) -> bytes:
    """Return what the operator says of itself, beside what its place in the graph says."""
    said: dict[str, Any] = node_to_json(node)
    return bytes(flexbuffers.Dumps({name: value for name, value in said.items() if name not in _KNOWN}))


def _arrays(node: Node) -> dict[str, Array]:
    return {"table": np.array(node.table, np.int8)} if isinstance(node, Lookup) else node.arrays()
