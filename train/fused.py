"""The element-wise work of quantization in one pass over memory, where a compiler can be had.

Quantizers do little arithmetic on much memory. Written as PyTorch calls, they read and write a tensor nine times;
torch.compile makes one loop of each direction: C++ on a CPU (which needs a compiler on the machine), Triton on CUDA.
Without one, and for small tensors, the same functions run as they are written.
"""

import functools
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._triton import has_triton

SMALLEST = 1 << 17
"""Elements from which a tensor pays for the call of a compiled function, and a net of such tensors for compiling."""


def round_to_grid(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Return clamp(round(x / scale), low, high) · scale, computed in float32, in the type and layout of x.

    Args:
        x: any shape, float. scale: float32 of one element. low, high: of the codes, less the zero point.
    """
    flat = _flat(x)
    run = _compiled(_round, x) if flat is not None else _round
    out = run(x if flat is None else flat, scale, *_limits(low, high, x))
    return out if flat is None else out.as_strided(x.size(), x.stride())


def round_to_grid_backward(gradient: Tensor, x: Tensor, scale: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Return (gradient of x, Σ (g·x̂ − g_x·x) as float32 scalar); see train.activation_quantizer for the formula.

    Args:
        gradient: of the result x̂ of round_to_grid, the shape of x. x, scale, low, high: its arguments; x̂ is computed
            again, for arithmetic is cheaper than reading.
    """
    limits = _limits(low, high, x)
    gradient = gradient if gradient.stride() == x.stride() else torch.empty_like(x).copy_(gradient)
    flats = [_flat(tensor) for tensor in (gradient, x)]
    if any(flat is None for flat in flats):
        return _backward(gradient, x, scale, *limits)
    through, slope = _compiled(_backward, x)(*flats, scale, *limits)
    return through.as_strided(x.size(), x.stride()), slope


def fused(function: Callable[..., Tensor], weight: Tensor, top: Tensor, *numbers: float) -> Tensor:
    """Return function(weight, top, *numbers): element-wise work, in one pass over a large weight, without gradient.

    Args:
        weight: (outputs, …). top: one number an output, or one, in a shape that broadcasts with it.
        numbers: given as tensors to a compiled function.
    """
    rows = _rows(weight) if _can_compile(weight.device.type) else None
    if rows is None:
        return function(weight, top, *numbers)
    # As a matrix, weights of all kernels and memory formats share one program.
    out: Tensor = _compile(function)(rows, top.reshape(-1, 1), *(_number(number, weight.device) for number in numbers))
    return out.as_strided(weight.size(), weight.stride())


def _rows(weight: Tensor) -> Tensor | None:
    """Return a large weight as (outputs, rest) in the order in which it lies in memory, None where it does not so."""
    columns = weight.numel() // max(len(weight), 1)
    dense = weight.numel() >= SMALLEST and torch.ops.aten.is_non_overlapping_and_dense(weight)
    if not dense or weight.stride(0) != columns:
        return None
    return weight.detach().as_strided((len(weight), columns), (columns, 1))


def _round(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return _on_grid(x.float(), scale, low, high).to(x.dtype)


def _on_grid(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.clamp(torch.round(x * (1 / scale)), low, high) * scale


def _backward(gradient: Tensor, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    wide, values = gradient.float(), x.float()
    through = torch.where((values > low * scale) & (values < high * scale), wide, 0.0)
    slope = wide * _on_grid(values, scale, low, high) - through * values
    return through.to(gradient.dtype), slope.sum()


def _flat(x: Tensor) -> Tensor | None:
    """Return the tensor's elements in the order in which they lie in memory, None where they do not lie densely."""
    if x.numel() >= SMALLEST and torch.ops.aten.is_non_overlapping_and_dense(x):
        return x.as_strided((x.numel(),), (1,))
    return None


@functools.lru_cache
def _number(value: float, device: torch.device) -> Tensor:
    """Return a number as a tensor: as numbers, every set of them would be compiled for anew."""
    return torch.tensor(value, dtype=torch.float32, device=device)


def _limits(low: int, high: int, x: Tensor) -> tuple[Tensor, Tensor]:
    return _number(low, x.device), _number(high, x.device)


def _compiled(function: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    return _compile(function) if _can_compile(x.device.type) else function


@functools.lru_cache
def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    # One program for every length: nets have few types of tensor and many sizes. Should there be too many types for
    # torch's limit, it runs the function as it is written, which a full graph would forbid.
    return torch.compile(function, dynamic=True)


@functools.lru_cache
def _can_compile(device: str) -> bool:
    """Whether torch.compile can make a program for a device type here."""
    if device == "cpu":
        return shutil.which(os.environ.get("CXX", "g++")) is not None
    return device == "cuda" and bool(has_triton())
