"""Wording: how a number is written for people, the same in the terminal and on the page."""

from msq.measurement import Device
from msq.provenance import Figure, Kind

BADGE = {
    Kind.MEASURED_BOARD: "board",
    Kind.MEASURED_HOST: "host",
    Kind.EMULATED: "emulated",
    Kind.COUNTED: "counted",
    Kind.ARTEFACT: "from file",
    Kind.MODELLED: "modelled",
}
"""The short name that stands beside a figure; msq.provenance.MEANING says it in full."""


def figure(found: Figure) -> str:
    """Return a figure's value with its unit.

    Units known by name: fraction (written in percent), bytes, seconds, bits, × (a ratio). Any other unit is
    written as it is, behind the number.
    """
    match found.unit:
        case "fraction":
            return percent(found.value, found.n)
        case "bytes":
            return size(found.value)
        case "seconds":
            return duration(found.value)
        case "bits":
            return f"{found.value:.2f} bits"
        case "×":
            return f"{found.value:.1f}×"
        case unit:
            return f"{found.value:,.6g} {unit}".rstrip()


def interval(found: Figure) -> str:
    """Return the figure's 95 % interval, or an empty string where it has none."""
    if found.low is None or found.high is None:
        return ""
    low, high = (figure(found.model_copy(update={"value": bound})) for bound in (found.low, found.high))
    number, _, unit = low.rpartition(" ")
    return f"{number if high.endswith(unit) else low} – {high}"


def percent(fraction: float, n: int | None = None) -> str:
    """Return a fraction in percent, with two decimals when 2,000 samples or more (or all) are behind it, else one."""
    return f"{100 * fraction:.{2 if n is None or n >= 2000 else 1}f} %"


def points(difference: float) -> str:
    """Return a difference of two fractions, without its sign, in percentage points."""
    shown = f"{100 * abs(difference):.2f}"
    return f"{shown} points" if shown != "0.00" or not difference else "less than 0.01 points"


def size(count: float) -> str:
    """Return a number of bytes in bytes, KiB or MiB."""
    if abs(count) < 1024:
        return f"{count:,.0f} byte{'' if count == 1 else 's'}"
    return f"{count / 1024:,.1f} KiB" if abs(count) < 1 << 20 else f"{count / (1 << 20):,.2f} MiB"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it, from milliseconds to hours."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def shape(dimensions: tuple[int, ...]) -> str:
    """Return a tensor's shape, such as 32×16×3×3."""
    return "×".join(map(str, dimensions))


def engine(device: Device) -> str:
    """Return what ran the model: a board, the host, an emulated processor or a whole emulated machine."""
    return {
        "board": "on the board",
        "host": "on the host",
        "qemu-user": "emulated processor",
        "qemu-system": "emulated machine",
    }[device.engine]


def printable(text: str) -> str:
    """Return the text with white space as blanks and control, format and surrogate characters replaced.

    Names come from files that others made: a terminal or an SVG must not be steered by what hides in them.
    """
    return "".join(
        sign if sign.isprintable() else " " if sign.isspace() else "\N{REPLACEMENT CHARACTER}" for sign in text
    )
