"""RoundClamp: integer codes whose bins line up across precisions, and the low bits a code would lose.

Source: MSQ (arXiv 2507.22349): RoundClamp quantizer and bipartite bit slicing.
"""

from typing import Literal

import torch
from torch import Tensor

from msq.errors import BudgetError

Rounding = Literal["roundclamp", "dorefa"]
Divisor = Literal["2^n", "2^n-1"]


def roundclamp(weight: Tensor, bits: int) -> Tensor:
    """Return q_n(W) = min(round(2^n · W), 2^n − 1), the n-bit code of a normalised weight.

    A boundary between two (n−1)-bit bins is the centre of an odd n-bit bin, so an odd code is as likely to be
    rounded up as down when it loses its last bit.

    Args:
        weight: normalised weights in [0, 1], any shape, float32.
        bits: n, 0..8. At n = 0 every code is 0.
    Returns:
        Integer-valued float32, same shape, in [0, 2^n − 1].
    Source: MSQ, RoundClamp. Rounding is half to even.
    """
    levels = float(1 << bits)
    return torch.clamp(torch.round(weight * levels), max=levels - 1)


def dorefa(weight: Tensor, bits: int) -> Tensor:
    """Return round((2^n − 1) · W), the linear code that MSQ shows to misalign across precisions.

    Args:
        weight: normalised weights in [0, 1], any shape, float32. bits: n, 1..8.
    Returns:
        Integer-valued float32, same shape, in [0, 2^n − 1].
    Source: DoReFa (arXiv 1606.06160), equation 5, times its divisor.
    """
    return torch.round(weight * float((1 << bits) - 1))


def code(weight: Tensor, bits: int, rounding: Rounding = "roundclamp") -> Tensor:
    """Return the n-bit code of a normalised weight by either rule; 0 at n = 0."""
    if rounding == "roundclamp":
        return roundclamp(weight, bits)
    return dorefa(weight, bits) if bits else torch.zeros_like(weight)


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
