"""The integer model under assembly: its tensors and nodes so far, and the quantized layers it draws weights from."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from export.elementwise import table_of
from export.folding import fold
from export.values import Constant, Grid, Pending, Quantized
from msq.checkpoint import TENSORS_FILE, Checkpoint, Site
from msq.errors import BundleError, LoweringError
from msq.integer_model import (
    Add,
    AveragePool,
    Conv2d,
    Dequantize,
    Flatten,
    IntegerModel,
    Linear,
    Lookup,
    MaxPool,
    Multiply,
    Node,
    Quantize,
    Tensor,
    Weight,
)

INPUT, OUTPUT = "input", "output"


class Assembly:
    """Takes values in the order in which the program makes them; `finish` returns the model."""

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        self._sites = {site.parameter: site for site in checkpoint.sites}
        self._arrays = load_file(folder / TENSORS_FILE)
        self._path = folder / TENSORS_FILE
        self._tensors: dict[str, Tensor] = {}
        self._nodes: list[Node] = []

    def image(self, shape: tuple[int, ...]) -> Pending:
        """Add the model's float32 input, NHWC."""
        self._tensors[INPUT] = Tensor(INPUT, shape, "float32")
        return Pending("quantize", "quantize", "", (), shape)

    def site(self, weight: Constant, op: str) -> Site:
        """Return the quantized layer whose weight a parameter is.

        Raises:
            LoweringError: the parameter is no site of the checkpoint, or its codes are not what the program uses.
        """
        site = self._sites.get(weight.name)
        if site is None or site.op != op:
            raise LoweringError(
                f"{weight.name.removesuffix('.weight')}: this {op} is not among the checkpoint's quantized layers",
                hint="every convolution and linear layer must be quantized in training",
            )
        codes, scale = self._codes(site)
        real = (site.a * codes.astype(np.float64) - site.z) * scale.reshape(-1, *[1] * (codes.ndim - 1))
        step = np.abs(scale).reshape(real.shape[0], *[1] * (codes.ndim - 1)) * max(site.a, 1)
        # What training computed in float32 is the same up to rounding; a code beside it would be a whole step off.
        off = np.abs((real if site.bits else 0) - weight.array) > 1e-3 * step + 1e-12
        if off.any():
            raise BundleError(
                f"{self._path}: {site.name}: {int(off.sum())} codes are not the weights of the program",
                hint="the checkpoint does not fit together; train again",
            )
        return site

    def settle(self, value: Pending, grid: Grid) -> Quantized:
        """Add the node of a pending result, now that its grid is known.

        Raises:
            LoweringError: the result was settled before, or its sums overflow.
        """
        if f"{value.name}.out" in self._tensors:
            raise LoweringError(
                f"{value.module or 'model'}: {value.name} is fake-quantized twice, or two nodes have that name",
                hint="use one fake-quantization for all users of a result",
            )
        out = self._add_tensor(value.name, value.result, grid)
        clamp = (grid.code(value.low), grid.code(value.high))
        inputs = tuple(operand.tensor.name for operand in value.inputs)
        common = (value.name, inputs or (INPUT,), out.name, value.module)
        if value.kind == "quantize":
            self._nodes.append(Quantize(*common, clamp=clamp))
        elif value.kind == "add":
            self._nodes.append(Add(*common, clamp=clamp))
        elif value.kind == "average_pool":
            self._nodes.append(AveragePool(*common, clamp=clamp))
        elif value.kind == "multiply":
            self._nodes.append(Multiply(*common, clamp=clamp))
        elif value.kind == "lookup":
            self._nodes.append(Lookup(*common, table_of(value.options["function"], value.inputs[0].grid, grid)))
        else:
            weight, bias = self._folded(value)
            kind: Any = Conv2d if value.kind == "conv2d" else Linear
            self._nodes.append(kind(*common, weight, bias, **value.options, clamp=clamp))
        settled = Quantized(out, grid, value.flattened_from)
        return self.flatten(f"{value.name}.flatten", value.module, settled) if value.flat else settled

    def max_pool(
        self,
        name: str,
        module: str,
        source: Quantized,
        shape: tuple[int, ...],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
    ) -> Quantized:
        """Add a maximum pool; shape is that of its result, NHWC."""
        out = self._add_tensor(name, shape, source.grid)
        self._nodes.append(MaxPool(name, (source.tensor.name,), out.name, module, kernel, stride, padding))
        return Quantized(out, source.grid)

    def flatten(self, name: str, module: str, source: Quantized) -> Quantized:
        """Add a flattening of a map; a linear layer behind it has its columns reordered to (h, w, c)."""
        out = self._add_tensor(name, (math.prod(source.shape),), source.grid)
        self._nodes.append(Flatten(name, (source.tensor.name,), out.name, module))
        is_map = math.prod(source.shape[:2]) > 1
        return Quantized(out, source.grid, source.shape if is_map else None)

    def finish(self, result: Quantized) -> IntegerModel:
        """Return the model whose output is `result`.

        Raises:
            LoweringError: the result is a flattened map, or a layer of the checkpoint does not occur.
        """
        if result.flattened_from is not None:
            raise LoweringError("the model's result is a flattened map, whose order differs from torch's here")
        if missing := {site.name for site in self._sites.values()} - {node.name for node in self._nodes}:
            raise LoweringError(f"{min(missing)}: the program does not use this layer", hint="remove it from the model")
        self._tensors[OUTPUT] = Tensor(OUTPUT, result.shape, "float32")
        self._nodes.append(Dequantize("dequantize", (result.tensor.name,), OUTPUT, ""))
        return IntegerModel(self._tensors, tuple(self._nodes), INPUT, OUTPUT)

    def _codes(self, site: Site) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        try:
            codes, scale = self._arrays[f"{site.name}.codes"], self._arrays[f"{site.name}.scale"]
        except KeyError as error:
            raise BundleError(f"{self._path}: holds no {error}", hint="train again") from None
        if codes.shape != site.shape or scale.shape != site.shape[:1] or codes.dtype != np.uint8:
            raise BundleError(
                f"{self._path}: {site.name} has codes {codes.dtype} {codes.shape} and scales {scale.shape}, "
                f"not uint8 {site.shape} and {site.shape[:1]}",
                hint="train again",
            )
        largest = site.a * (2**site.bits - 1) - site.z
        if site.bits and not -128 <= -site.z <= largest <= 127:
            raise LoweringError(
                f"{site.name}: weights {-site.z}..{largest} do not fit int8", hint="use one bit less, or another grid"
            )
        return codes, scale.astype(np.float32)

    def _folded(self, value: Pending) -> tuple[Weight, NDArray[np.int32]]:
        assert value.site is not None and value.affine is not None
        site, source = value.site, value.inputs[0]
        codes, scale = self._codes(site)
        if codes.ndim == 4:
            codes = codes.transpose(0, 2, 3, 1)
        elif source.flattened_from is not None:
            height, width, channels = source.flattened_from
            codes = codes.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(codes.shape)
        weight = Weight.from_codes(np.ascontiguousarray(codes), site.bits, site.a, site.z, scale)
        folded, bias = fold(weight.integers(), scale, value.affine, source.grid.scale, site.name)
        return Weight(weight.bits, weight.a, weight.z, weight.shape, weight.packed, folded), bias

    def _add_tensor(self, node: str, shape: tuple[int, ...], grid: Grid) -> Tensor:
        tensor = Tensor(f"{node}.out", shape, "int8", grid.scale, grid.zero_point)
        self._tensors[tensor.name] = tensor
        return tensor
