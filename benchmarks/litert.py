"""LiteRT models of one kind of layer, int8 all through: what the benchmarks put beside the packed kernels.

LiteRT runs them by XNNPACK, its default. Its files are flatbuffers; the schema comes with ai-edge-litert.
"""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from benchmarks.layers import SCALE, Layer
from benchmarks.ort import Session
from msq.errors import UsageError

WEIGHT_SCALE = 1e-3
_WEIGHT_TYPES = {8: schema.TensorType.INT8, 4: schema.TensorType.INT4, 2: schema.TensorType.INT2}
_Options = schema.BuiltinOptions
_Operator = schema.BuiltinOperator


def weights(layer: Layer, bits: int = 8) -> list[NDArray[np.int8]]:
    """Return the weights that `model` gives each repetition: (out, height, width, in / groups) or (out, in)."""
    random, most = np.random.default_rng(0), min(60, (1 << (bits - 1)) - 1)
    return [random.integers(-most, most + 1, layer.weights).astype(np.int8) for _ in range(layer.repeated)]


def model(layer: Layer, bits: int = 8, *, float32: bool = True) -> bytes:
    """Return a .tflite of the layer, repeated as it says: input and output (1, *layer.shape), scale SCALE, zero 0.

    Args:
        bits: of the weights; 8, or for a linear layer also 4 or 2.
        float32: the graph takes and returns float32, quantized in its first and dequantized in its last operator;
            else int8.
    Raises:
        UsageError: LiteRT has no such width for the layer.
    """
    if bits not in _WEIGHT_TYPES or (bits != 8 and layer.size):
        raise UsageError(f"{layer.name}: no {bits}-bit weights", hint="8; a linear layer also 4 and 2")
    graph = _Graph()
    shape = (1, *layer.shape)
    current = graph.tensor("q0", shape, schema.TensorType.INT8, [SCALE])
    if float32:
        ends = [graph.tensor(name, shape, schema.TensorType.FLOAT32) for name in "xy"]
        graph.add(_Operator.QUANTIZE, [ends[0]], current, _Options.QuantizeOptions, schema.QuantizeOptionsT())
    else:
        ends = [current, -1]
    for index, codes in enumerate(weights(layer, bits)):
        out = graph.tensor(f"q{index + 1}", shape, schema.TensorType.INT8, [SCALE])
        scales, last = [WEIGHT_SCALE] * layer.channels, 3 if layer.depthwise else 0
        # A depthwise layer's weights are (1, height, width, channels).
        stored = codes.transpose(3, 1, 2, 0) if layer.depthwise else codes
        w = graph.tensor(f"w{index}", stored.shape, _WEIGHT_TYPES[bits], scales, last, _packed(stored, bits))
        zeros = np.zeros(layer.channels, np.int32)
        biases = [WEIGHT_SCALE * SCALE] * layer.channels
        bias = graph.tensor(f"b{index}", zeros.shape, schema.TensorType.INT32, biases, 0, zeros)
        graph.add(_operator(layer), [current, w, bias], out, *_options(layer))
        current = out
    if float32:
        graph.add(_Operator.DEQUANTIZE, [current], ends[1], _Options.DequantizeOptions, schema.DequantizeOptionsT())
    else:
        ends[1] = current
    return graph.file(*ends)


def _operator(layer: Layer) -> int:
    if not layer.size:
        return int(_Operator.FULLY_CONNECTED)
    return int(_Operator.DEPTHWISE_CONV_2D if layer.depthwise else _Operator.CONV_2D)


def _options(layer: Layer) -> tuple[int, Any]:
    if not layer.size:
        return _Options.FullyConnectedOptions, schema.FullyConnectedOptionsT()
    options = schema.DepthwiseConv2DOptionsT() if layer.depthwise else schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    if layer.depthwise:
        options.depthMultiplier = 1
    return (_Options.DepthwiseConv2DOptions if layer.depthwise else _Options.Conv2DOptions), options


def _packed(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Return codes of 8, 4 or 2 bits as LiteRT stores them: the first in the lowest bits of a byte."""
    fields = (codes.reshape(-1, 8 // bits).view(np.uint8) & ((1 << bits) - 1)) << np.arange(0, 8, bits, dtype=np.uint8)
    return np.asarray(np.bitwise_or.reduce(fields, axis=1), np.uint8)


def session(layer: Layer, bits: int = 8) -> Session:
    """Return the layer, float32 in and out, on one thread of LiteRT, run as ONNX Runtime's sessions are."""
    return Running(Interpreter(model_content=model(layer, bits), num_threads=1))


class Running:
    """An interpreter, run as ONNX Runtime's sessions are: with nothing between."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def run(self, names: None, inputs: dict[str, Any]) -> list[Any]:
        """Return the output in a list."""
        self._interpreter.set_tensor(self._input, inputs["x"])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(self._output)]


class _Graph:
    """A .tflite under construction."""

    def __init__(self) -> None:
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._model = schema.ModelT()
        self._model.version, self._model.subgraphs = 3, [self._graph]
        # By convention the first buffer is empty: tensors without data refer to it.
        self._model.buffers, self._model.operatorCodes = [schema.BufferT()], []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: int,
        scales: list[float] | None = None,
        axis: int = 0,
        data: NDArray[Any] | None = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, 0
        if scales is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = scales, [0] * len(scales)
            tensor.quantization.quantizedDimension = axis
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self._model.buffers)
            self._model.buffers.append(buffer)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def add(self, operator: int, inputs: list[int], output: int, kind: int, options: Any) -> None:
        code = schema.OperatorCodeT()
        # The version says which features may occur; 4 has all that is used here.
        code.builtinCode, code.deprecatedBuiltinCode, code.version = operator, min(operator, 127), 4
        node = schema.OperatorT()
        node.opcodeIndex, node.inputs, node.outputs = len(self._model.operatorCodes), inputs, [output]
        node.builtinOptionsType, node.builtinOptions = kind, options
        self._model.operatorCodes.append(code)
        self._graph.operators.append(node)

    def file(self, x: int, y: int) -> bytes:
        self._graph.inputs, self._graph.outputs = [x], [y]
        builder = flatbuffers.Builder()
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
