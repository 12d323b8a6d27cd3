"""RoundClamp: integer codes whose bins line up across precisions, and the low bits a code would lose.

Source: MSQ (arXiv 2507.22349): RoundClamp quantizer and bipartite bit slicing.
"""

from typing import Literal

import torch
from torch import Tensor

from msq.errors import BudgetError

Rounding = Literal["roundclamp", "dorefa"]
Divisor = Literal["2^n", "2^n-1"]


def nearest(weight: Tensor, steps: float | Tensor, most: float | Tensor) -> Tensor:
    """Return min(round(steps · |W|), most) with the sign of W; rounding is half to even, the same on both sides."""
    return torch.clamp(torch.round(weight * steps), -most, most)  # type: ignore[arg-type]


def roundclamp(weight: Tensor, bits: int) -> Tensor:
    """Return q_n(W) = min(round(2^n · W), 2^n − 1), the n-bit code of a normalised weight.

    A boundary between two (n−1)-bit bins is the centre of an odd n-bit bin, so an odd code is as likely to be
    rounded up as down when it loses its last bit.

    Args:
        weight: normalised weights in [0, 1], any shape, float32; of a negative one, −q_n(|W|).
        bits: n, 0..8. At n = 0 every code is 0.
    Returns:
        Integer-valued float32, same shape, in [0, 2^n − 1].
    Source: MSQ, RoundClamp. Rounding is half to even.
    """
    return nearest(weight, *steps_of(bits, "roundclamp"))


def dorefa(weight: Tensor, bits: int) -> Tensor:
    """Return round((2^n − 1) · W), the linear code that MSQ shows to misalign across precisions.

    Args:
        weight: normalised weights in [0, 1], any shape, float32. bits: n, 1..8.
    Returns:
        Integer-valued float32, same shape, in [0, 2^n − 1].
    Source: DoReFa (arXiv 1606.06160), equation 5, times its divisor.
    """
    return nearest(weight, *steps_of(bits, "dorefa"))


def steps_of(bits: int, rounding: Rounding) -> tuple[float, float]:
    """Return what `nearest` takes for an n-bit code of either rule: steps, and the largest code."""
    most = float((1 << bits) - 1)
    return (most + 1 if rounding == "roundclamp" else most), most


def code(weight: Tensor, bits: int, rounding: Rounding = "roundclamp") -> Tensor:
    """Return the n-bit code of a normalised weight by either rule; 0 at n = 0."""
    return nearest(weight, *steps_of(bits, rounding))


def lsb_residue(weight: Tensor, bits: int, drop: int, rounding: Rounding = "roundclamp") -> Tensor:
    """Return B_k = q_n(W) − 2^k · q_{n−k}(W), the signed part of the code that dropping k bits loses.

    Args:
        weight: normalised weights in [0, 1], any shape, float32.
        bits: n, 1..8. drop: k, 1..n. rounding: q.
    Returns:
        Integer-valued float32, same shape; of RoundClamp in [−2^(k−1), 2^k − 1], above 2^(k−1) only where q_{n−k} is
        clamped.
        It carries no gradient: differentiated through both roundings, 2^n − 2^k · 2^(n−k) cancels to nothing.
        The penalty's gradient is sign(B_k) (train.methods.msq).
    Raises:
        BudgetError: drop is not in 1..bits.
    Source: MSQ, bipartite bit slicing; q is RoundClamp.
    """
    if not 1 <= drop <= bits:
        raise BudgetError(f"cannot drop {drop} bits of {bits}")
    with torch.no_grad():
        return code(weight, bits, rounding) - float(1 << drop) * code(weight, bits - drop, rounding)
