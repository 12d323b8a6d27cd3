"""Layers as ONNX models: packed, and as ONNX Runtime itself runs them; float32 in and out.

ONNX Runtime's int8 is given uint8 activations and int8 weights, its fastest on x86: for signed activations, which
aarch64 prefers, it has no vector kernel there.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.layers import SCALE, Layer
from export.lowerings import lowering
from msq.integer_model import IntegerModel
from msq.nodes import Conv2d, Dequantize, Linear, Node, Quantize, Tensor, Weight
from runtimes._kernels import kernels

Session = Any
"""Has run(None, {"x": float32 array})."""


def packed(layer: Layer, bits: int, threads: int = 1) -> Session:
    """Return a session of the layer at a width, on the packed kernels."""
    with tempfile.TemporaryDirectory() as name:
        return session(str(packed_model(layer, bits, Path(name))), str(kernels().path), threads)


def packed_model(layer: Layer, bits: int, folder: Path) -> Path:
    """Write model.onnx of the layer at a width, beside weights.bin, and return where it is."""
    folder.mkdir(exist_ok=True)
    lowering("onnx").lower(integer_model(layer, bits).save(folder), folder)
    return folder / "model.onnx"


def integer_model(layer: Layer, bits: int) -> IntegerModel:
    """Return the layer at a width, repeated as it says, float32 in and out."""
    random = np.random.default_rng(bits)
    tensors = {"x": Tensor("x", layer.shape, "float32"), "q0": Tensor("q0", layer.shape, "int8", SCALE)}
    nodes: list[Node] = [Quantize("quantize", ("x",), "q0", "")]
    for index in range(layer.repeated):
        codes = random.integers(0, 1 << bits, layer.weights).astype(np.uint8)
        scale = np.full(layer.channels, 1e-3, np.float32)
        weight = Weight.from_codes(codes, bits, 1, 1 << (bits - 1), scale, layer.depthwise)
        place = (f"layer{index}", (f"q{index}",), f"q{index + 1}", f"layer{index}")
        bias, pad = np.zeros(layer.channels, np.int32), layer.kernel // 2
        groups = layer.channels if layer.depthwise else 1
        nodes.append(
            Conv2d(*place, weight, bias, padding=(pad,) * 4, groups=groups)
            if layer.size
            else Linear(*place, weight, bias)
        )
        tensors[f"q{index + 1}"] = Tensor(f"q{index + 1}", layer.shape, "int8", SCALE)
    tensors["y"] = Tensor("y", layer.shape, "float32")
    nodes.append(Dequantize("dequantize", (f"q{layer.repeated}",), "y", ""))
    return IntegerModel(tensors, tuple(nodes), "x", "y")


def int8(layer: Layer) -> Session:
    """Return ONNX Runtime's int8: QLinearConv or QLinearMatMul with uint8 activations."""
    return session(int8_model(layer, np.uint8(128)))


def int8_model(layer: Layer, zero: np.uint8 | np.int8) -> bytes:
    """Return the model of ONNX Runtime's int8; zero: the activations' zero point, of their type."""
    graph = _Graph(layer)
    grid = [graph.constant(np.float32(SCALE)), graph.constant(zero)]
    weight_grid = [graph.constant(np.float32(1e-3)), graph.constant(np.int8(0))]
    current = graph.add("QuantizeLinear", ["x", *grid])
    for _ in range(layer.repeated):
        weights = graph.constant(graph.random.integers(-60, 60, graph.weights).astype(np.int8))
        operator = "QLinearConv" if layer.size else "QLinearMatMul"
        operands = [*grid, weights, *weight_grid, *grid]
        current = graph.layer(current, operator, operands)
    return graph.model(graph.add("DequantizeLinear", [current, *grid]))


def float32(layer: Layer) -> Session:
    """Return ONNX Runtime's float32."""
    graph = _Graph(layer)
    current = "x"
    for _ in range(layer.repeated):
        weights = graph.constant(graph.random.normal(size=graph.weights).astype(np.float32))
        current = graph.layer(current, "Conv" if layer.size else "MatMul", [weights])
    return session(graph.model(graph.add("Identity", [current])))


def matmul_nbits(layer: Layer, bits: int, block: int = 128) -> Session:
    """Return ONNX Runtime's MatMulNBits, which quantizes the activations by itself (accuracy_level 4)."""
    graph, size = _Graph(layer), layer.channels
    codes = graph.constant(graph.random.integers(0, 256, (size, size // block, block * bits // 8)).astype(np.uint8))
    scales = graph.constant(np.full((size, size // block), 1e-3, np.float32))
    attributes = {"K": size, "N": size, "bits": bits, "block_size": block, "accuracy_level": 4}
    return session(graph.model(graph.add("MatMulNBits", ["x", codes, scales], domain="com.microsoft", **attributes)))


class _Graph:
    """A model of one kind of layer under construction, without our operators."""

    def __init__(self, layer: Layer) -> None:
        self.of, self.random = layer, np.random.default_rng(0)
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        order = (0, 3, 1, 2) if layer.size else (1, 0)
        self.weights = tuple(layer.weights[axis] for axis in order)
        groups = layer.channels if layer.depthwise else 1
        self.attributes = {"pads": [layer.kernel // 2] * 4, "group": groups} if layer.size else {}

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        self._constants.append(numpy_helper.from_array(np.asarray(value), f"c{len(self._constants)}"))
        return str(self._constants[-1].name)

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [f"v{len(self._nodes)}"], **attributes))
        return str(self._nodes[-1].output[0])

    def layer(self, x: str, operator: str, operands: list[str]) -> str:
        """Append a layer; of maps, which are channels last outside it, with its transpositions."""
        if not self.of.size:
            return self.add(operator, [x, *operands])
        turned = self.add("Transpose", [x], perm=[0, 3, 1, 2])
        return self.add("Transpose", [self.add(operator, [turned, *operands], **self.attributes)], perm=[0, 2, 3, 1])

    def model(self, output: str) -> bytes:
        shape: list[str | int | None] = ["n", *self.of.shape]
        graph = helper.make_graph(
            self._nodes,
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self._constants,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return bytes(model.SerializeToString())


def session(model: str | bytes, library: str | None = None, threads: int = 1) -> Session:
    """Return a session of a file or of a model's bytes, with a library of custom operators if any."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
