"""Packed kernels beside ONNX Runtime's own, layer by layer: make bench-kernels.

Each layer is a small ONNX model, float32 in and out, run by ONNX Runtime on one thread. The rivals take turns in one
process, run by run, so that whatever slows the machine slows all of them; the 10th percentile of each counts.

ONNX Runtime's int8 is given uint8 activations and int8 weights, its fastest on x86: for signed activations, which
aarch64 prefers, it has no vector kernel there.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.result import Bar, at_least, at_most, finish
from export.lowerings import lowering
from msq.cli import run
from msq.integer_model import IntegerModel
from msq.nodes import Conv2d, Dequantize, Linear, Node, Quantize, Tensor, Weight
from runtimes._kernels import kernels

WARM_UP = 5
SCALE = 0.05


@dataclass(frozen=True)
class Layer:
    """A layer of as many channels out as in, so that it can follow itself. size: of a square map; 0: a linear layer."""

    channels: int
    size: int = 0
    kernel: int = 3
    depthwise: bool = False
    repeated: int = 1

    @property
    def name(self) -> str:
        """Kind, channels and map."""
        if not self.size:
            return f"linear {self.channels}²"
        kind = "depthwise" if self.depthwise else "conv"
        return f"{kind} {self.kernel}×{self.kernel} {self.channels} @ {self.size}²"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input, without the batch: (height, width, channels) or (features,)."""
        return (self.size, self.size, self.channels) if self.size else (self.channels,)

    @property
    def weights(self) -> tuple[int, ...]:
        """(out, height, width, in / groups) or (out, in)."""
        inputs = 1 if self.depthwise else self.channels
        return (self.channels, self.kernel, self.kernel, inputs) if self.size else (self.channels, inputs)


CONVOLUTIONS = [
    Layer(16, 32, repeated=2), Layer(32, 16, repeated=2), Layer(64, 8, repeated=2), Layer(64, 16, repeated=2),
    Layer(64, 32), Layer(128, 16), Layer(256, 8), Layer(256, 16), Layer(512, 8), Layer(256, 14, 1, repeated=2),
]  # fmt: skip
DEPTHWISE = [
    Layer(32, 112, depthwise=True), Layer(96, 56, depthwise=True), Layer(144, 56, depthwise=True),
    Layer(384, 14, depthwise=True, repeated=2), Layer(960, 7, depthwise=True, repeated=2),
]  # fmt: skip
LINEAR = [Layer(2048), Layer(4096)]
FASTER = {2: 3.3, 3: 2.4, 4: 1.8, 6: 1.2}
"""What a linear layer of a width must be, as a multiple of ONNX Runtime's int8 speed."""

Session = Any


def main(
    rounds: int = 100,
    widths: Annotated[str, typer.Option(help="comma-separated")] = "1,2,3,4,5,6,7",
    out: Path = Path("build/bench"),
) -> None:
    """Time every layer at every width beside its rivals, and judge the bars."""
    bits = [int(width) for width in widths.split(",")]
    kernels().use_threads(1)
    figures: list[dict[str, Any]] = []
    for layer in track([*CONVOLUTIONS, *DEPTHWISE, *LINEAR], "layers", console=Console(stderr=True)):
        rivals: dict[str, Session] = {"int8": int8(layer), "float32": float32(layer)}
        if not layer.size:
            rivals |= {f"MatMulNBits {width}": matmul_nbits(layer, width) for width in (2, 4)}
        ours = {f"packed {width}": packed(layer, width) for width in bits}
        for name, times in interleaved(rivals | ours, layer.shape, rounds).items():
            figures.append({"layer": layer.name, "what": name, "microseconds": [round(1e6 * t, 1) for t in times]})
    _print(figures)
    settings = {"rounds": rounds, "widths": bits, "tier": kernels().tier(), "threads": 1}
    raise SystemExit(finish("kernels", settings, figures, bars(figures, bits), out))


def interleaved(sessions: dict[str, Session], shape: tuple[int, ...], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every run, the sessions in turn, without the first few."""
    x = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for index in range(rounds + WARM_UP):
        for name, session in sessions.items():
            began = time.perf_counter()
            session.run(None, {"x": x})
            if index >= WARM_UP:
                times[name].append(time.perf_counter() - began)
    return times


def packed(layer: Layer, bits: int) -> Session:
    """Return a session of the layer at a width, on the packed kernels."""
    with tempfile.TemporaryDirectory() as name:
        return _session(str(packed_model(layer, bits, Path(name))), str(kernels().path))


def packed_model(layer: Layer, bits: int, folder: Path) -> Path:
    """Write model.onnx of the layer at a width, beside weights.bin, and return where it is."""
    folder.mkdir(exist_ok=True)
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
    lowering("onnx").lower(IntegerModel(tensors, tuple(nodes), "x", "y").save(folder), folder)
    return folder / "model.onnx"


def int8(layer: Layer) -> Session:
    """Return ONNX Runtime's int8: QLinearConv or QLinearMatMul with uint8 activations."""
    return _session(int8_model(layer, np.uint8(128)))


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
    return _session(graph.model(graph.add("Identity", [current])))


def matmul_nbits(layer: Layer, bits: int, block: int = 128) -> Session:
    """Return ONNX Runtime's MatMulNBits, which quantizes the activations by itself (accuracy_level 4)."""
    graph, size = _Graph(layer), layer.channels
    codes = graph.constant(graph.random.integers(0, 256, (size, size // block, block * bits // 8)).astype(np.uint8))
    scales = graph.constant(np.full((size, size // block), 1e-3, np.float32))
    attributes = {"K": size, "N": size, "bits": bits, "block_size": block, "accuracy_level": 4}
    return _session(graph.model(graph.add("MatMulNBits", ["x", codes, scales], domain="com.microsoft", **attributes)))


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


def _session(model: str | bytes, library: str | None = None) -> Session:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def percentile(figures: list[dict[str, Any]], layer: Layer, what: str) -> float | None:
    """Return the 10th percentile of a rival's microseconds on a layer."""
    found = [one["microseconds"] for one in figures if (one["layer"], one["what"]) == (layer.name, what)]
    return float(np.percentile(found[0], 10)) if found else None


def ratios(figures: list[dict[str, Any]], layers: list[Layer], what: str, rival: str) -> list[float]:
    """Return what's time over the rival's, layer by layer."""
    pairs = [(percentile(figures, layer, what), percentile(figures, layer, rival)) for layer in layers]
    return [ours / theirs for ours, theirs in pairs if ours is not None and theirs is not None]


def bars(figures: list[dict[str, Any]], widths: list[int]) -> list[Bar]:
    """Return what the kernels must reach: the worst layer of each kind and width."""
    found = []
    for width in widths:
        ours = f"packed {width}"
        over_int8 = ratios(figures, CONVOLUTIONS, ours, "int8")
        spread = f"median {statistics.median(over_int8):.3f}"
        found += [
            at_most(f"convolutions, {width} bits: time / int8, worst", max(over_int8), 1.05, spread),
            at_least(
                f"convolutions, {width} bits: speed / float32, worst",
                min(1 / ratio for ratio in ratios(figures, CONVOLUTIONS, ours, "float32")),
                2.4,
            ),
            at_most(
                f"depthwise, {width} bits: time / int8, worst", max(ratios(figures, DEPTHWISE, ours, "int8")), 1.05
            ),
        ]
        if width in FASTER:
            speeds = [1 / ratio for ratio in ratios(figures, LINEAR, ours, "int8")]
            found.append(at_least(f"linear, {width} bits: speed / int8, worst", min(speeds), FASTER[width]))
        if width in (2, 4):
            speeds = [1 / ratio for ratio in ratios(figures, LINEAR, ours, f"MatMulNBits {width}")]
            found.append(at_least(f"linear, {width} bits: speed / MatMulNBits, worst", min(speeds), 1.0))
    return found


def _print(figures: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(one["what"] for one in figures))
    table = Table("µs, 10th percentile", *names)
    for layer in [*CONVOLUTIONS, *DEPTHWISE, *LINEAR]:
        found = [percentile(figures, layer, name) for name in names]
        table.add_row(layer.name, *("" if value is None else f"{value:.0f}" for value in found))
    Console().print(table)


if __name__ == "__main__":
    run(lambda: typer.run(main))
