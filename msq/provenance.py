"""Where a number comes from. Figures of different kinds are never compared or drawn on one axis."""

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
