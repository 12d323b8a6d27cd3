"""DoReFa codes under MSQ's rule: the negative control of the MSQ paper.

All is as in train.methods.msq but for the codes: round((2^n − 1)·W), whose bins do not line up across precisions. Their
low bits say "too small" of nearly every weight above the middle, so that the L1 term shrinks the weights instead of
moving each to its nearest coarser value.

Source: DoReFa (arXiv 1606.06160), MSQ (arXiv 2507.22349).
"""

from train.methods import msq
from train.methods.msq import phases, wrap
from train.roundclamp import Divisor, Rounding

__all__ = ["Options", "phases", "wrap"]


class Options(msq.Options):
    """Keys of a recipe's `method` section: those of msq."""

    rounding: Rounding = "dorefa"
    """The codes."""
    divisor: Divisor = "2^n-1"
    """What codes are divided by."""
