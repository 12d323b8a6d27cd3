"""Batch norms and biases folded into a layer's scales and int32 bias; its codes stay as they were trained."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import LoweringError

Reals = NDArray[np.float64]

LARGEST_BIAS = 1 << 30
"""Half of int32: the other half is for the products."""
LEAST_SCALE = 1e-30
"""Keeps the multiplier of a dead channel a normal float32, which all processors treat alike."""
LARGEST_INPUT = 255
"""|x − zero_point| of an int8 activation."""


@dataclass(frozen=True)
class Affine:
    """What is done to a channel after the convolution by real weights: gain · conv + offset; float64, (out,)."""

    gain: Reals
    offset: Reals

    @classmethod
    def of_bias(cls, outputs: int, bias: NDArray[Any] | None) -> "Affine":
        """Return the map that adds a layer's own bias, where it has one."""
        offset = np.zeros(outputs) if bias is None else bias.astype(np.float64)
        return cls(np.ones(outputs), offset)

    def then_batch_norm(
        self,
        gamma: NDArray[Any] | None,
        beta: NDArray[Any] | None,
        mean: NDArray[Any],
        variance: NDArray[Any],
        epsilon: float,
    ) -> "Affine":
        """Return this map followed by y = (x − mean) / √(variance + ε) · γ + β, all of shape (out,)."""
        factor = 1 / np.sqrt(variance.astype(np.float64) + epsilon)
        if gamma is not None:
            factor = factor * gamma.astype(np.float64)
        offset = (self.offset - mean.astype(np.float64)) * factor
        if beta is not None:
            offset = offset + beta.astype(np.float64)
        return Affine(self.gain * factor, offset)


def fold(
    integers: NDArray[np.int8], scale: NDArray[np.float32], affine: Affine, input_scale: float, module: str
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the weight scales and the bias of an integer layer.

    A gain near zero would ask for a bias beyond int32. Such a channel's scale is enlarged until its bias is
    2^30: the channel is its bias, and the products, which then weigh too much, still add at most
    255 · Σ|w| / 2^30 of it. A negative gain gives a negative scale.

    Args:
        integers: w, int8, (out, …). scale: float32, (out,). affine: what follows. input_scale: s_x.
        module: the layer's path, for the message.
    Returns:
        scale, float32 (out,): scale · gain; bias, int32 (out,): rint(offset / (s_x · scale)).
    Raises:
        LoweringError: a factor is not finite, or the int32 accumulator of some input could overflow.
    """
    if not (np.isfinite(affine.gain).all() and np.isfinite(affine.offset).all() and np.isfinite(scale).all()):
        raise LoweringError(f"{module}: a scale, bias or batch norm is not finite", hint="train it again")
    effective = scale.astype(np.float64) * affine.gain
    least = np.maximum(np.abs(affine.offset) / (input_scale * LARGEST_BIAS), LEAST_SCALE)
    with np.errstate(over="ignore"):
        folded = np.copysign(np.maximum(np.abs(effective), least), effective).astype(np.float32)
    if not np.isfinite(folded).all():
        raise LoweringError(
            f"{module}: its batch norm's gain is beyond float32", hint="training went astray: train it again"
        )
    bias = np.rint(affine.offset / (input_scale * folded.astype(np.float64)))
    products = LARGEST_INPUT * np.abs(integers.astype(np.int64)).reshape(len(scale), -1).sum(axis=1)
    reach = float((products + np.abs(bias)).max(initial=0))
    if reach >= 1 << 31:
        raise LoweringError(
            f"{module}: its sums can reach {reach:.0f}, which overflows the int32 accumulator",
            hint="split the layer, or give it fewer bits",
        )
    return folded, bias.astype(np.int32)
