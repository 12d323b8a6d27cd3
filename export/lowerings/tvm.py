"""TVM: the integer model as a Relax module, compiled to a library that holds the packed kernels.

Weights stay in weights.bin, which is mapped: the library's functions take it as a tensor (_tvm_graph.py). A layer is a
call of the packed kernels, with the addition behind it if there is one; every other operation is a tensor expression
that TVM compiles (_tvm_operators.py). All of it computes what the oracle does, bit for bit. There is a library for each
machine, model-<machine>.so; steps.json tells which tensors each call makes: it serves verification.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.lowerings._tvm_library import DEPLOYED, NODE_BYTES, PACKAGES, PROCESSORS, Graph, kernel_bytes, write
from msq.integer_model import ALIGNMENT, IntegerModel
from msq.nodes import Add, Conv2d, Linear, Node

__all__ = ["DEPLOYED", "NAME", "PACKAGES", "PROCESSORS", "content_bytes", "lower"]

NAME = "tvm"


def content_bytes(model: IntegerModel) -> int:
    """Return the bytes of the weights' bits, of the parameters, of the linked kernels, and of the nodes' calls."""
    return model.weight_bytes + model.parameter_bytes + kernel_bytes() + NODE_BYTES * len(model.nodes)


def lower(model: IntegerModel, folder: Path, processors: Sequence[str] = ()) -> list[str]:
    """Write a library for x86-64 and one for aarch64, and steps.json.

    Args:
        processors: keys of PROCESSORS, at most one a machine, that they are made for; by default any of the machine.
    Raises:
        UsageError: there is no such processor.
        LoweringError: the packed kernels or zig are missing.
    """
    return write(model, folder, processors, PackedLayers(model), kernels=True)


class PackedLayers:
    """Layers as calls of the packed kernels."""

    def __init__(self, model: IntegerModel) -> None:
        self._model = model
        self._sums = _sums(model)
        self._before = {layer for layer, _ in self._sums.values()}

    def hold(self, graph: Graph, layers: Iterable[Conv2d | Linear]) -> None:
        """Let the state hold the layers, prepared, with their addition."""
        sums = {layer: self._model_node(add) for add, (layer, _) in self._sums.items()}
        graph.hold_session()
        for node in layers:
            graph.hold_layer(node, _words(graph.model, node, sums.get(node.name)))

    def emit(self, graph: Graph, node: Node) -> bool:
        """Append a layer, at the place of the addition behind it, if there is one."""
        if node.name in self._sums:
            layer, other = self._sums[node.name]
            before = self._model_node(layer)
            graph.packed(before, [before.output, node.output], [graph.value(other)])
            return True
        if not isinstance(node, Conv2d | Linear):
            return False
        if node.name not in self._before:
            graph.packed(node, [node.output], [])
        return True

    def _model_node(self, name: str) -> Node:
        (node,) = (node for node in self._model.nodes if node.name == name)
        return node


def _sums(model: IntegerModel) -> dict[str, tuple[str, str]]:
    """Return the additions that a layer does: the addition's name → the layer's name, and the other input.

    The layer's result must be of no other use, and none of its values repeated.
    """
    uses = Counter(name for node in model.nodes for name in node.inputs)
    made_by = {node.output: node for node in model.nodes}
    found = {}
    for node in model.nodes:
        if not isinstance(node, Add) or len({model.tensors[name].shape for name in node.inputs}) > 1:
            continue
        for name, other in (node.inputs, node.inputs[::-1]):
            if isinstance(made_by[name], Conv2d | Linear) and uses[name] == 1:
                found[node.name] = (made_by[name].name, other)
                break
    return found


def _words(model: IntegerModel, node: Conv2d | Linear, add: Node | None) -> NDArray[np.int32]:
    """Return what runtimes/kernels/tvm.c reads of a layer, as its layer_words: floats by their bits."""
    weight, conv = node.weight, node if isinstance(node, Conv2d) else None
    source, out = (model.tensors[name] for name in (node.inputs[0], node.output))
    shape = weight.shape if conv else (weight.outputs, 1, 1, weight.inputs)
    placed = [model.placed[f"{node.name}.{name}"].offset // ALIGNMENT for name in ("packed", "scale", "bias")]
    integers = [weight.bits, weight.a, weight.z, shape[0], shape[3], conv.groups if conv else 1, weight.depthwise]
    window = [*shape[1:3], *((*conv.stride, *conv.dilation, *conv.padding) if conv else (1, 1, 1, 1, 0, 0, 0, 0))]
    words = [*placed, *integers, *window, *_bits(source.scale, out.scale)]
    words += [source.zero_point, out.zero_point, *node.clamp]
    if isinstance(add, Add):
        (other,) = (model.tensors[name] for name in add.inputs if name != node.output)
        total = model.tensors[add.output]
        ratios = [np.float32(one.scale) / np.float32(total.scale) for one in (out, other)]
        words += [*_bits(*ratios), other.zero_point, total.zero_point, *add.clamp]
    else:
        words += [0] * 6
    return np.array(words, np.int32)


def _bits(*values: float | np.float32) -> list[int]:
    return [int(bits) for bits in np.array(values, np.float32).view(np.int32)]
