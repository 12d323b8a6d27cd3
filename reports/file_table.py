"""The terminal's table of one model file's measurement."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msq.measurement import FileMeasurement
from msq.provenance import MEANING
from reports import wording

TITLES = {
    "top1": "Top-1",
    "model_bytes": "Model file",
    "first_answer": "First answer",
    "latency_p50": "Latency, p50",
    "latency_p90": "Latency, p90",
    "latency_p95": "Latency, p95",
    "latency_p99": "Latency, p99",
    "peak_memory": "Memory, peak",
    "load_peak_memory": "Memory, peak while it loads",
    "run_peak_memory": "Memory, peak while it runs",
    "anonymous_memory": "Memory, the process's own",
    "file_memory": "Memory, pages of files",
}


def file_table(measurement: FileMeasurement) -> RenderableType:
    """Return what was found, every figure with its unit and where it comes from, for a rich console."""
    table = Table("Figure", "Value", "95 % interval, or remark", "From", box=box.SIMPLE_HEAD, show_edge=False)
    table.columns[1].justify = "right"
    for name, title in TITLES.items():
        if found := measurement.figures.get(name):
            beside = wording.interval(found) if found.low is not None else found.note
            table.add_row(title, wording.figure(found), _text(beside), wording.BADGE[found.kind])
    kinds = dict.fromkeys(found.kind for found in measurement.figures.values())
    other = len(measurement.disagreements)
    return Group(
        _text(f"{measurement.name} on {measurement.device.title}", "bold"),
        _text(f"{measurement.runtime} {measurement.runtime_version}, {wording.engine(measurement.device)}", "dim"),
        table,
        *(_text(f"{wording.BADGE[kind]}: {MEANING[kind]}", "dim") for kind in kinds),
        *([_text(f"{other} of {len(measurement.predictions)} images get another class here")] if other else []),
        *(_text(f"doubt: {doubt}", "yellow") for doubt in measurement.doubts),
    )


def _text(words: str, style: str = "") -> Text:
    return Text(wording.printable(words), style)
