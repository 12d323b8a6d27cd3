"""The terminal's report: verdict, gates and figures in 100 columns; plain text when it is piped."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from msq.measurement import Measurement
from msq.provenance import MEANING, Figure, Kind
from reports import figures, wording
from reports.gates import GateResult, verdict
from reports.report import ReportResult

WIDTH = 100
"""Columns that the report never exceeds, and has where its output is piped."""


def show(result: ReportResult, console: Console) -> None:
    """Print the report. Where the output is no terminal it has no colours and is not folded to 80 columns."""
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDTH, color_system=None)
    console.print(summary(result.measurement, result.document.gates), width=min(WIDTH, console.width))
    for what, path in vars(result.outputs).items():
        if path:
            console.print(_text(f"{what}: {path}"), soft_wrap=True)


def summary(measurement: Measurement, results: Sequence[GateResult]) -> RenderableType:
    """Return the report for a rich console: verdict, gates, figures with their provenance."""
    manifest, device = measurement.manifest, measurement.device
    passed = not any(result.outcome == "failed" for result in results)
    ran = f"{measurement.runtime} {measurement.runtime_version} ({measurement.runtime_mode})"
    return Group(
        Text(),
        _text(f"{manifest.name} on {device.title}", "bold"),
        _text(f"{ran}, {wording.engine(device)}, {device.cpu}", "dim"),
        _text(verdict(results), "bold green" if passed else "bold red"),
        Text(),
        _gates(results),
        Text(),
        _figures(measurement),
        Text(),
        *_legend(measurement),
    )


_MARKS = {"passed": ("passed", "green"), "failed": ("FAILED", "bold red"), "not judged": ("not judged", "yellow")}


def _gates(results: Sequence[GateResult]) -> Table:
    table = _table("Gate", "Found", "Wanted", "Margin", "")
    table.columns[1].justify = "right"
    for result in results:
        mark = _text(*_MARKS[result.outcome])
        cells = (result.title, result.found, result.wanted, result.margin)
        table.add_row(*map(_text, cells), mark)
    return table


def _figures(measurement: Measurement) -> Table:
    table = _table("Figure", "Value", "95 % interval, or remark", "From")
    table.columns[1].justify = "right"
    for group in (_accuracy, _bits, _bytes, _parity, _times):
        for name, value, beside, kind in group(measurement):
            table.add_row(_text(name), _text(value), _text(beside, "dim"), _text(wording.BADGE[kind], "dim"))
        table.add_section()
    return table


Row = tuple[str, str, str, Kind]
"""Name, value, what stands beside it, and where it comes from."""


def _row(name: str, found: Figure, beside: str) -> Row:
    return name, wording.figure(found), beside, found.kind


def _accuracy(measurement: Measurement) -> Iterator[Row]:
    for name, found in figures.test_set_accuracies(measurement.manifest).items():
        yield _row(f"Top-1, {name}", found, f"{wording.interval(found)}, all {found.n:,} test images")
    if on_device := figures.device_accuracy(measurement):
        yield _row("Top-1, on the device", on_device, f"{wording.interval(on_device)}, {on_device.n:,} of them")


def _bits(measurement: Measurement) -> Iterator[Row]:
    budget = measurement.manifest.budget_bits
    beside = "stored a weight, signs included" + (f"; budget {budget:.2f}" if budget is not None else "")
    yield _row("Average width", figures.average_bits(measurement.manifest), beside)
    for name, found in figures.compressions(measurement.manifest).items():
        yield _row("Smaller than float32", found, name[0].lower() + name[1:])


def _bytes(measurement: Measurement) -> Iterator[Row]:
    found = measurement.manifest.sizes
    yield _row("Model file", figures.file_size(measurement.manifest), f"limit {wording.size(found.limit_bytes)}")
    yield _row("Weights in int8", figures.stored(found.int8_bytes), "with scales and biases")
    yield _row("Weights in float32", figures.stored(found.float32_bytes), "with biases")


def _parity(measurement: Measurement) -> Iterator[Row]:
    parity, kind = measurement.parity, figures.observed(measurement.device)
    compared = f"{parity.tensors} tensors, {parity.values:,} values"
    yield "Outputs and the host's", "equal" if parity.equal_to_host else "different", compared, kind
    named = f" ({', '.join(parity.differing)})" if parity.differing else ""
    beside = "bit for bit" if parity.equal_to_oracle else f"at most {parity.max_lsb_to_oracle} LSB{named}"
    yield "Outputs and the oracle's", "equal" if parity.equal_to_oracle else "different", beside, kind


def _times(measurement: Measurement) -> Iterator[Row]:
    for name, found in figures.times(measurement).items():
        yield _row(f"Latency, {name}", found, found.note or "one image")


def _legend(measurement: Measurement) -> list[Text]:
    """Say in full the kinds that stand in the table."""
    kinds = (Kind.MEASURED_HOST, figures.observed(measurement.device), Kind.ARTEFACT)
    return [_text(f"{wording.BADGE[kind]}: {MEANING[kind]}", "dim") for kind in dict.fromkeys(kinds)]


def _table(*headers: str) -> Table:
    table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    table.columns[0].no_wrap = True
    return table


def _text(words: str, style: str = "") -> Text:
    """Return text in which nothing, neither markup nor control characters, is obeyed."""
    return Text(wording.printable(words), style)
