"""The integer model under assembly: its tensors and nodes so far, and the quantized layers it draws weights from."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from export.elementwise import identity, table_of
from export.folding import fold
from export.values import Constant, Grid, Pending, Quantized
from msq.checkpoint import TENSORS_FILE, Checkpoint, Site
from msq.errors import BundleError, LoweringError
from msq.integer_model import IntegerModel
from msq.nodes import (
    NODES,
    Concat,
    Conv2d,
    Dequantize,
    Flatten,
    Linear,
    Lookup,
    MaxPool,
    Node,
    Reshape,
    Slice,
    Tensor,
    Transpose,
    Weight,
)
from msq.nodes import Constant as ConstantNode

INPUT, OUTPUT = "input", "output"


class Assembly:
    """Takes values in the order in which the program makes them; `finish` returns the model."""

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        self._sites = {site.parameter: site for site in checkpoint.sites}
        self._arrays = load_file(folder / TENSORS_FILE)
        self._path = folder / TENSORS_FILE
        self._tensors: dict[str, Tensor] = {}
        self._nodes: list[Node] = []
        self._constants: dict[tuple[str, bool, int], Quantized] = {}

    def image(self, shape: tuple[int, ...]) -> Pending:
        """Add the model's float32 input; shape is torch's, without the batch. A map becomes channels last."""
        is_map = len(shape) == 3
        shape = (*shape[1:], shape[0]) if is_map else shape
        self._tensors[INPUT] = Tensor(INPUT, shape, "float32")
        return Pending("quantize", "quantize", "", (), shape, channels_last=is_map)

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
        kind: Any = NODES[value.kind]
        if kind is Lookup:
            self._nodes.append(Lookup(*common, table_of(value.options["function"], value.inputs[0].grid, grid)))
        elif kind is Concat:
            brought = (self._brought(part, grid, f"{value.name}.{i}") for i, part in enumerate(value.inputs))
            inputs = tuple(operand.tensor.name for operand in brought)
            self._nodes.append(Concat(value.name, inputs, out.name, value.module, **value.options))
        elif kind in (Conv2d, Linear):
            self._nodes.append(kind(*common, *self._folded(value), **value.options, clamp=clamp))
        else:
            self._nodes.append(kind(*common, **value.options, clamp=clamp))
        settled = Quantized(out, grid, value.flattened_from, channels_last=value.channels_last)
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
        return Quantized(out, source.grid, channels_last=True)

    def constant(self, value: Constant, module: str, channels_last: bool, rank: int) -> Quantized:
        """Add a parameter as a tensor of `rank` dimensions, on a symmetric grid of its own that its largest value ends.

        Raises:
            LoweringError: it has more dimensions, differs between the images of a batch, or is not finite.
        """
        key = (value.name, channels_last, rank)
        if key in self._constants:
            return self._constants[key]
        array = value.array.astype(np.float64)
        array = array.reshape((1,) * (rank + 1 - array.ndim) + array.shape)
        largest = float(np.abs(array).max(initial=0))
        if array.ndim != rank + 1 or len(array) != 1 or not math.isfinite(largest):
            raise LoweringError(
                f"{module or 'model'}: the parameter {value.name} of shape {value.array.shape} cannot be an operand",
                hint=f"it must be finite, and of {rank} dimensions beside the batch, which is 1",
            )
        array = np.moveaxis(array[0], 0, -1) if channels_last else array[0]
        grid = Grid(float(np.float32(largest / 127 or 1.0)), 0, -128, 127)
        name = value.name + ".again" * sum(known[0] == value.name for known in self._constants)
        out = self._add_tensor(name, array.shape, grid)
        codes = np.clip(np.rint(array / grid.scale), grid.low, grid.high).astype(np.int8)
        self._nodes.append(ConstantNode(name, (), out.name, module, codes))
        self._constants[key] = Quantized(out, grid, channels_last=channels_last)
        return self._constants[key]

    def arranged(self, source: Quantized, *, channels_last: bool) -> Quantized:
        """Return a tensor with torch's first dimension last, or with all in torch's order; one of rank 1 is both."""
        rank = len(source.shape)
        if rank < 2 or source.channels_last == channels_last:
            return source
        axes = (*range(1, rank), 0) if channels_last else (rank - 1, *range(rank - 1))
        name = f"{source.tensor.name.removesuffix('.out')}.turned"
        if (known := self._tensors.get(f"{name}.out")) is None:
            known = self._moved(Transpose, name, "", source, tuple(source.shape[axis] for axis in axes), axes=axes)
        return replace(source, tensor=known, channels_last=channels_last)

    def permute(self, name: str, module: str, source: Quantized, axes: tuple[int, ...]) -> Quantized:
        """Return a tensor whose dimension i, in torch's order, is the stored tensor's axes[i].

        Nothing is moved where another reading of the tensor, as channels last or not, does it.
        """
        rank = len(axes)
        if axes == tuple(range(rank)):
            return replace(source, channels_last=False)
        if axes == (rank - 1, *range(rank - 1)):
            return replace(source, channels_last=True)
        shape = tuple(source.shape[axis] for axis in axes)
        return Quantized(self._moved(Transpose, name, module, source, shape, axes=axes), source.grid)

    def reshape(self, name: str, module: str, source: Quantized, sizes: tuple[int, ...]) -> Quantized:
        """Return a tensor in another shape, given in torch's order; where torch's first stays, so do channels last."""
        keeps = source.channels_last and len(sizes) > 1 and sizes[0] == source.sizes[0]
        source = source if keeps else self.arranged(source, channels_last=False)
        shape = (*sizes[1:], sizes[0]) if keeps else sizes
        return Quantized(self._moved(Reshape, name, module, source, shape), source.grid, channels_last=keeps)

    def slice(self, name: str, module: str, source: Quantized, axis: int, start: int, stop: int) -> Quantized:
        """Return the indices start to stop − 1 of an axis of the stored tensor."""
        shape = (*source.shape[:axis], stop - start, *source.shape[axis + 1 :])
        cut = self._moved(Slice, name, module, source, shape, axis=axis, start=start, stop=stop)
        return replace(source, tensor=cut)

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
        if result.channels_last and len(result.shape) != 3:
            result = self.arranged(result, channels_last=False)
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
        depthwise = codes.shape[-1] == 1 and value.options.get("groups") == len(codes)
        weight = Weight.from_codes(np.ascontiguousarray(codes), site.bits, site.a, site.z, scale, depthwise)
        folded, bias = fold(weight.integers(), scale, value.affine, source.grid.scale, site.name)
        return replace(weight, scale=folded), bias

    def _moved(
        self, kind: Any, name: str, module: str, source: Quantized, shape: tuple[int, ...], **options: Any
    ) -> Tensor:
        """Add a node that only moves codes."""
        out = self._add_tensor(name, shape, source.grid)
        self._nodes.append(kind(name, (source.tensor.name,), out.name, module, **options))
        return out

    def _brought(self, source: Quantized, grid: Grid, name: str) -> Quantized:
        """Return a tensor on another grid."""
        if source.grid == grid:
            return source
        out = self._add_tensor(name, source.shape, grid)
        table = table_of(identity, source.grid, grid)
        self._nodes.append(Lookup(name, (source.tensor.name,), out.name, "", table))
        return replace(source, tensor=out, grid=grid)

    def _add_tensor(self, node: str, shape: tuple[int, ...], grid: Grid) -> Tensor:
        tensor = Tensor(f"{node}.out", shape, "int8", grid.scale, grid.zero_point)
        self._tensors[tensor.name] = tensor
        return tensor
