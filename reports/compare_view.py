"""A comparison as people read it: the same tables in the terminal and in Markdown."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msq.provenance import Figure
from reports import markdown, wording
from reports.compare import Change, Comparison, Pair

HEADER = ("Figure", "Base", "Other", "Change", "95 % interval", "p", "Verdict", "From")
COLOURS = {"better": "green", "worse": "bold red"}


def terminal(comparison: Comparison) -> RenderableType:
    """Return the comparison for a rich console."""
    parts: list[RenderableType] = []
    for pair in comparison.pairs:
        table = Table(*HEADER, box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
        for column in (1, 2, 3, 4, 5):
            table.columns[column].justify = "right"
        for change in pair.changes:
            table.add_row(*map(Text, _cells(change)), style=COLOURS.get(change.verdict))
        parts += [Text(), Text(_title(pair), "bold"), table, *map(Text, _beside(pair))]
    return Group(*parts, *(Text(line) for line in _presence(comparison)))


def as_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown, for a pull request."""
    parts = []
    for pair in comparison.pairs:
        rows = [_cells(change) for change in pair.changes]
        parts += [f"### {markdown.text(_title(pair))}", markdown.table(HEADER, rows)]
        parts += [markdown.bullets(_beside(pair))]
    return "\n\n".join([part for part in (*parts, markdown.bullets(_presence(comparison))) if part]) + "\n"


def _title(pair: Pair) -> str:
    return wording.printable(f"{pair.what}: {pair.other} beside {pair.base}")


def _cells(change: Change) -> tuple[str, ...]:
    found = change.difference
    of_shares = change.unit == "fraction"
    words = _points if of_shares else _percent
    value = found.value if found else change.other - change.base if of_shares else _ratio(change)
    return (
        wording.printable(change.figure),
        *(_value(change, value) for value in (change.base, change.other)),
        words(value) if value is not None else "–",
        f"{words(found.low)} … {words(found.high)}" if found else "–",
        "–" if found is None or found.p is None else "< 0.001" if found.p < 0.001 else f"{found.p:.3f}",
        change.verdict,
        wording.BADGE[change.kind],
    )


def _value(change: Change, value: float) -> str:
    return wording.figure(Figure(value=value, unit=change.unit, kind=change.kind))


def _ratio(change: Change) -> float | None:
    return change.other / change.base if change.base else None


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f} points"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def _beside(pair: Pair) -> Iterator[str]:
    """Yield what is no difference of a figure, line by line."""
    yield from (f"newly failing: {title}" for title in pair.newly_failing)
    yield from (f"mended: {title}" for title in pair.mended)
    tests = dict.fromkeys(change.difference.test for change in pair.changes if change.difference)
    if tests:
        yield f"tests: {'; '.join(tests)}"
    yield from (wording.printable(f"not compared: {apart.figure}: {apart.why}") for apart in pair.apart)


def _presence(comparison: Comparison) -> Iterator[str]:
    yield from (wording.printable(f"new in {found.side}: {found.what}") for found in comparison.new)
    yield from (wording.printable(f"missing in {found.side}: {found.what}") for found in comparison.missing)
