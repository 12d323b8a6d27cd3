"""TVM alone: as export.lowerings.tvm, but packed layers are TIR functions too (_tvm_packed.py), and no C is linked."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from export.lowerings import _tvm_packed
from export.lowerings._tvm_library import DEPLOYED, NODE_BYTES, PACKAGES, PROCESSORS, Graph, write
from export.lowerings._tvm_nodes import grid
from msq.integer_model import IntegerModel
from msq.nodes import Conv2d, Linear, Node

__all__ = ["DEPLOYED", "NAME", "PACKAGES", "PROCESSORS", "content_bytes", "lower"]

NAME = "tvm-stock"

LAYER_BYTES = 6144
"""Of a library: the code of a layer, which depends on its shape and width."""


def content_bytes(model: IntegerModel) -> int:
    """Return the bytes of the weights' bits, of the parameters, of the nodes' calls, and of the layers' code."""
    code = NODE_BYTES * len(model.nodes) + LAYER_BYTES * len(list(model.weighted()))
    return model.weight_bytes + model.parameter_bytes + code


def lower(model: IntegerModel, folder: Path, processors: Sequence[str] = ()) -> list[str]:
    """Write libraries and steps.json, as export.lowerings.tvm does.

    Raises:
        UsageError: there is no such processor.
        LoweringError: zig, which links, is missing.
    """
    return write(model, folder, processors, _Layers(), kernels=False)


class _Layers:
    """Layers as TIR functions, which read packed weights where they are mapped."""

    def hold(self, graph: Graph, layers: Iterable[Conv2d | Linear]) -> None:
        """Let the state hold the weights' file, scales and biases."""
        graph.hold_weights()
        for node in layers:
            graph.hold_copy(node, "scale")
            graph.hold_copy(node, "bias")

    def emit(self, graph: Graph, node: Node) -> bool:
        """Append a layer."""
        if not isinstance(node, Conv2d | Linear):
            return False
        source, out = (graph.model.tensors[name] for name in (node.inputs[0], node.output))
        function = _tvm_packed.layer(node, (1, *source.shape), (1, *out.shape), graph.weight_bytes)
        begin = graph.constant([graph.model.placed[f"{node.name}.packed"].offset], np.int64)
        scalars = graph.constant([source.zero_point, source.scale, out.scale, *grid(node, out)])
        held = [graph.held(node, "scale"), graph.held(node, "bias")]
        graph.function(node, function, graph.weights, begin, *held, scalars)
        return True
