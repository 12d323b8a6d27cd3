"""LiteRT models of one kind of layer, int8 all through: what the benchmarks put beside the packed kernels.

LiteRT runs them by XNNPACK, its default.
"""

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from benchmarks.layers import SCALE, Layer
from benchmarks.ort import Session
from export.lowerings._tflite_file import File, Operator, Type, schema
from export.lowerings._tflite_layers import packed
from msq.errors import UsageError

WEIGHT_SCALE = 1e-3
_WEIGHT_TYPES = {8: Type.INT8, 4: Type.INT4, 2: Type.INT2}


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
    file = File(layer.name)
    graph = file.subgraph(layer.name)
    shape = (1, *layer.shape)
    x = current = graph.tensor("q0", shape, Type.INT8, scales=[SCALE])
    if float32:
        x = graph.tensor("x", shape, Type.FLOAT32)
        graph.add(Operator.QUANTIZE, [x], current, schema.QuantizeOptionsT())
    for index, codes in enumerate(weights(layer, bits)):
        out = graph.tensor(f"q{index + 1}", shape, Type.INT8, scales=[SCALE])
        scales, last = [WEIGHT_SCALE] * layer.channels, 3 if layer.depthwise else 0
        # A depthwise layer's weights are (1, height, width, channels).
        stored = codes.transpose(3, 1, 2, 0) if layer.depthwise else codes
        kind, data = _WEIGHT_TYPES[bits], packed(stored, bits)
        w = graph.tensor(f"w{index}", stored.shape, kind, scales=scales, axis=last, data=data)
        zeros = np.zeros(layer.channels, np.int32)
        biases = [WEIGHT_SCALE * SCALE] * layer.channels
        bias = graph.tensor(f"b{index}", zeros.shape, Type.INT32, scales=biases, data=zeros)
        current = graph.add(_operator(layer), [current, w, bias], out, _options(layer))
    if float32:
        y = graph.tensor("y", shape, Type.FLOAT32)
        current = graph.add(Operator.DEQUANTIZE, [current], y, schema.DequantizeOptionsT())
    graph.close([x], [current])
    return file.content()


def _operator(layer: Layer) -> int:
    if not layer.size:
        return int(Operator.FULLY_CONNECTED)
    return int(Operator.DEPTHWISE_CONV_2D if layer.depthwise else Operator.CONV_2D)


def _options(layer: Layer) -> Any:
    if not layer.size:
        return schema.FullyConnectedOptionsT()
    options = schema.DepthwiseConv2DOptionsT() if layer.depthwise else schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    if layer.depthwise:
        options.depthMultiplier = 1
    return options


def session(layer: Layer, bits: int = 8) -> Session:
    """Return the layer, float32 in and out, on one thread of LiteRT, run as ONNX Runtime's sessions are."""
    return Running(Interpreter(model_content=model(layer, bits), num_threads=1))


class Running:
    """An interpreter, run as ONNX Runtime's sessions are: with nothing between.

    Where it takes int8, pixels are brought to a grid once, in a run that does not count.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._x: Any = None

    def run(self, names: None, inputs: dict[str, Any]) -> list[Any]:
        """Return the output for inputs["x"], the same at every call, in a list."""
        if self._x is None:
            is_int8 = self._input["dtype"] == np.int8
            self._x = np.clip(64 * inputs["x"], -128, 127).astype(np.int8) if is_int8 else inputs["x"]
        self._interpreter.set_tensor(self._input["index"], self._x)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(self._output)]
