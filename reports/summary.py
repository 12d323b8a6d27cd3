"""The summary: a report as Markdown, for a comment on a pull request."""

from collections.abc import Iterable, Iterator, Sequence

from msq.provenance import MEANING, Figure
from reports import wording
from reports.document import Document
from reports.gates import GateResult
from reports.markdown import bullets, table, text

SHOWN = {
    "accuracy.float": "Top-1, float",
    "accuracy.ptq8": "Top-1, 8-bit",
    "accuracy.deployed": "Top-1, as deployed",
    "top1": "Top-1 on the device",
    "average_bits": "Average width",
    "model_bytes": "Model file",
    "int8_bytes": "The same in int8",
    "float32_bytes": "Weights in float32",
    "latency_p50": "Latency, p50",
    "latency_p90": "Latency, p90",
    "peak_memory": "Peak memory",
}
"""Figures that are shown, where there are such."""


def markdown(found: Document) -> str:
    """Return verdict, gates, figures and what was not measured."""
    mark = "✅" if found.passed else "❌"
    ran = f"{found.model}, {found.method}; {found.runtime} {found.runtime_version} ({found.runtime_mode}), "
    ran += f"{wording.engine(found.device)}, {found.device.cpu}"
    parts = [
        f"## {mark} {text(found.name)} on {text(found.device.title)}: {text(found.verdict)}",
        text(ran),
        gate_table(found.gates),
        figure_table(found.figures),
        bullets(f"doubtful: {doubt}" for doubt in found.doubts),
        "Not measured:\n\n" + bullets(f"{one.what}: {one.why}" for one in found.absences) if found.absences else "",
        "\n".join(legend(found.figures.values())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def gate_table(results: Sequence[GateResult]) -> str:
    """Return the gates, the failed ones first."""
    order = {"failed": 0, "not judged": 1, "passed": 2}
    header = ("Gate", "Found", "From", "Wanted", "Margin", "Result")
    rows = [
        (one.title, one.found, wording.BADGE[one.kind], one.wanted, one.margin, one.outcome)
        for one in sorted(results, key=lambda one: order[one.outcome])
    ]
    return table(header, rows)


def figure_table(figures: dict[str, Figure]) -> str:
    """Return the figures that are asked for first, each with where it comes from."""
    shown = {title: figures[name] for name, title in SHOWN.items() if name in figures}
    rows = [
        (title, wording.figure(one), wording.interval(one) or "–", wording.BADGE[one.kind])
        for title, one in shown.items()
    ]
    return table(("Figure", "Value", "95 % interval", "From"), rows)


def legend(figures: Iterable[Figure]) -> Iterator[str]:
    """Yield what the kinds of some figures mean, a line each."""
    for kind in dict.fromkeys(figure.kind for figure in figures):
        yield f"<sub>{wording.BADGE[kind]}: {MEANING[kind]}</sub><br>"
