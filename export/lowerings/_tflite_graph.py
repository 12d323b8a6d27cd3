"""The TFLite graph of an integer model under construction: its tensors by name, constants, and clamps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.lowerings._tflite_file import File, Operator, Type, schema
from msq.errors import LoweringError
from msq.integer_model import IntegerModel
from msq.nodes import Node, Tensor

INT8 = (-128, 127)
LARGEST_MULTIPLIER = 256
Activation = schema.ActivationFunctionType
_REAL_RANGES = {
    Activation.RELU: (0.0, np.inf),
    Activation.RELU6: (0.0, 6.0),
    Activation.RELU_N1_TO_1: (-1.0, 1.0),
}
"""Fused activation → the real values that it keeps to."""
KINDS = {"float32": Type.FLOAT32, "int8": Type.INT8, "int32": Type.INT32, "uint8": Type.UINT8}


class Graph:
    """A subgraph over tensors of an integer model. The batch, 1, is the first dimension of every tensor."""

    def __init__(self, file: File, model: IntegerModel, name: str, *, narrow: bool = False) -> None:
        self.model, self.narrow = model, narrow
        self._subgraph = file.subgraph(name)
        self._values: dict[str, int] = {}
        self._constants: dict[tuple[Any, ...], int] = {}

    def value(self, tensor: Tensor) -> int:
        """Return an activation, which is appended where it is not yet there."""
        if tensor.name not in self._values:
            scales = [tensor.scale] if tensor.dtype == "int8" else []
            self._values[tensor.name] = self._subgraph.tensor(
                tensor.name, (1, *tensor.shape), KINDS[tensor.dtype], scales=scales, zero_point=tensor.zero_point
            )
        return self._values[tensor.name]

    def sources(self, node: Node) -> list[int]:
        """Return the node's inputs."""
        return [self.value(self.model.tensors[name]) for name in node.inputs]

    def hold(self, tensor: Tensor, codes: NDArray[np.int8]) -> None:
        """Make an activation a constant."""
        self._values[tensor.name] = self._subgraph.tensor(
            tensor.name, (1, *tensor.shape), Type.INT8, scales=[tensor.scale], zero_point=tensor.zero_point, data=codes
        )

    def constant(self, value: Any, dtype: Any, grid: Tensor | None = None) -> int:
        """Return a small constant, which equal ones share; on a tensor's grid, where one is given."""
        array = np.asarray(value, dtype)
        scales, zero_point = ([grid.scale], grid.zero_point) if grid else ([], 0)
        key = (array.dtype, array.shape, array.tobytes(), *scales, zero_point)
        if key not in self._constants:
            name = f"constant{len(self._constants)}"
            self._constants[key] = self._subgraph.tensor(
                name, array.shape, KINDS[array.dtype.name], scales=scales, zero_point=zero_point, data=array
            )
        return self._constants[key]

    def index(self, name: str, shape: tuple[int, ...]) -> int:
        """Return a new int32 activation."""
        return self._subgraph.tensor(name, (1, *shape), Type.INT32)

    def parameter(self, name: str, data: NDArray[Any], kind: int, shape: Sequence[int], **grid: Any) -> int:
        """Return a new constant of a layer's own."""
        return self._subgraph.tensor(name, shape, kind, data=data, **grid)

    def add(self, operator: int, inputs: Sequence[int], output: Tensor | int, options: Any = None) -> int:
        """Append an operator and return its output."""
        index = self.value(output) if isinstance(output, Tensor) else output
        return self._subgraph.add(operator, inputs, index, options)

    def out(self, node: Node) -> Tensor:
        """Return the node's output tensor."""
        return self.model.tensors[node.output]

    def fused(self, node: Node) -> tuple[int, Tensor]:
        """Return the fused activation that clamps as the node does, and the tensor that the operator writes.

        Where none clamps so, the tensor is one that `clip` is still to clamp.
        """
        out = self.out(node)
        for activation in (Activation.NONE, *_REAL_RANGES):
            if _codes(activation, out) == code_range(node):
                return activation, out
        return Activation.NONE, replace(out, name=f"{out.name}/wide")

    def target(self, node: Node) -> Tensor:
        """Return the tensor to which an operator without fused activations writes."""
        out = self.out(node)
        return out if code_range(node) == INT8 else replace(out, name=f"{out.name}/wide")

    def clip(self, node: Node, written: Tensor) -> None:
        """Append what clamps `written`, if that is not yet the node's output."""
        out, (low, high) = self.out(node), code_range(node)
        if written.name == out.name:
            return
        edges = [(Operator.MAXIMUM, schema.MaximumMinimumOptionsT(), low)] if low > INT8[0] else []
        edges += [(Operator.MINIMUM, schema.MaximumMinimumOptionsT(), high)] if high < INT8[1] else []
        for index, (operator, options, code) in enumerate(edges):
            last = index == len(edges) - 1
            result = out if last else replace(out, name=f"{out.name}/low")
            self.add(operator, [self.value(written), self.constant(code, np.int8, out)], result, options)
            written = result

    def add_custom(self, name: str, inputs: Sequence[int], output: Tensor, options: bytes) -> int:
        """Append a custom operator and return its output. options: a FlexBuffer."""
        return self._subgraph.add_custom(name, inputs, self.value(output), options)

    def close(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Say which activations go in and come out."""
        ends = [[self.value(self.model.tensors[name]) for name in names] for names in (inputs, outputs)]
        self._subgraph.close(*ends)

    def sign(self, file: File, key: str) -> None:
        """Give the graph, which is the file's last, a signature."""
        file.sign(key, self._subgraph)


def require_multiplier(node: Node, multiplier: float) -> None:
    """Refuse a multiplier from a step of the node's sums to one of its output that LiteRT has no integers for.

    Raises:
        LoweringError: it is 256 or more, so that nearly every code saturates.
    """
    if not multiplier < LARGEST_MULTIPLIER:
        raise LoweringError(
            f"{node.module or node.name}: a step of its sums is {multiplier:.4g} steps of its output; in TFLite a "
            f"{node.kind} takes less than {LARGEST_MULTIPLIER}",
            hint="the output's range was set too small: calibrate or train it again",
        )


def code_range(node: Node) -> tuple[int, int]:
    """Return the codes that the node's result keeps to."""
    clamp: tuple[int, int] = getattr(node, "clamp", INT8)
    return clamp


def _codes(activation: int, out: Tensor) -> tuple[int, int]:
    """Return the codes to which a fused activation clamps; a bound half-way between codes fits none."""
    if activation == Activation.NONE:
        return INT8
    codes = [bound / np.float32(out.scale) for bound in _REAL_RANGES[activation]]
    if any(np.isfinite(code) and abs(code - np.floor(code) - 0.5) < 1e-3 for code in codes):
        return (1, 0)
    low, high = (max(INT8[0], min(INT8[1], float(np.rint(code)) + out.zero_point)) for code in codes)
    return int(low), int(high)
