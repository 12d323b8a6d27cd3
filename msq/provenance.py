"""Where a number comes from. Figures of different kinds are never compared or drawn on one axis."""

import math
from enum import StrEnum

from msq.artefact import Strict


class Kind(StrEnum):
    """How a figure was obtained, from the strongest claim to the weakest."""

    MEASURED_BOARD = "measured:board"
    MEASURED_HOST = "measured:host"
    EMULATED = "emulated:functional"
    COUNTED = "counted:instructions"
    ARTEFACT = "read:artefact"
    MODELLED = "modelled"


MEANING = {
    Kind.MEASURED_BOARD: "measured on the board itself",
    Kind.MEASURED_HOST: "measured on the machine that ran the toolchain",
    Kind.EMULATED: "run on an emulated processor: what the code computes, never how fast",
    Kind.COUNTED: "instructions counted by an emulator: a regression gauge, never a time",
    Kind.ARTEFACT: "read off a file or computed exactly from it",
    Kind.MODELLED: "computed by a model of the device, not observed",
}


class Figure(Strict):
    """One number of a report: value, unit and where it comes from.

    low and high bound a 95 % confidence interval where one applies; n is the number of samples behind it.
    """

    value: float
    unit: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""


Z95 = 1.959964
"""Normal quantile of a two-sided 95 % interval."""


def proportion(correct: float, n: int, kind: Kind, note: str = "") -> Figure:
    """Return correct / n, n ≥ 1, as a fraction with its 95 % Wilson score interval.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference (1927).
    """
    share, spread = correct / n, Z95 * Z95 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # At 0 and 1 the bound is the share itself, but for rounding.
    low, high = min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)
    return Figure(value=share, unit="fraction", kind=kind, low=low, high=high, n=n, note=note)
