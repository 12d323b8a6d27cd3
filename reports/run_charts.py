"""Charts of all runs: accuracy against size and against latency, each with its Pareto frontier."""

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt

from msq.provenance import Figure, Kind
from reports.drawing import ACCENT, ALERT, SOFT, Drawing, data, draw, one_kind
from reports.runs import Run, frontier

FRONTIER = "Pareto frontier"
"""What the frontier says of itself, by which the page's script finds it."""
_CURRENT = {"size": 150, "opacity": 1.0, "color": ALERT}
_OTHER = {"size": 50, "opacity": 0.75, "color": ACCENT}


def against_size(runs: Sequence[Run], alt_text: str) -> Drawing | None:
    """Draw accuracy against the size of the model file; None where fewer than two runs have an accuracy."""
    return _pareto(runs, lambda run: run.size, 1024, "model file, KiB", alt_text)


def against_latency(runs: Sequence[Run], kind: Kind, alt_text: str) -> Drawing | None:
    """Draw accuracy against the median latency of the runs whose latency is of a kind; None of fewer than two."""

    def of_kind(run: Run) -> Figure | None:
        return run.latency if run.latency and run.latency.kind is kind else None

    return _pareto(runs, of_kind, 0.001, "latency, p50, ms", alt_text)


def _pareto(
    runs: Sequence[Run], across: Callable[[Run], Figure | None], unit: float, title: str, alt_text: str
) -> Drawing | None:
    shown = [
        (row, run, x, run.accuracy) for row, run in enumerate(runs) if run.accuracy and (x := across(run)) is not None
    ]
    if len(shown) < 2:
        return None
    # The run that the report is about lies over the others.
    shown.sort(key=lambda item: item[1].current)
    values = [
        {"x": x.value / unit, "y": y.value, "tip": run.tip, **(_CURRENT if run.current else _OTHER)}
        for _, run, x, y in shown
    ]
    edge = [{"x": x, "y": y, "tip": FRONTIER} for x, y in frontier([(x.value / unit, y.value) for _, _, x, y in shown])]
    scale: dict[str, Any] = {"scale": alt.Scale(zero=False, padding=14)}

    def chart(width: int) -> Any:
        x = alt.X("x:Q", axis=alt.Axis(title=title, grid=True, tickCount=5), **scale)
        y = alt.Y("y:Q", axis=alt.Axis(format=".1~%", grid=True, tickCount=5, title="top-1"), **scale)
        line = data(edge).mark_line(color=SOFT, interpolate="step-after", strokeWidth=2, aria=True)
        line = line.encode(x=x, y=y, description="tip:N")
        dots = (
            data(values)
            .mark_point(filled=True, aria=True)
            .encode(
                x=x,
                y=y,
                description="tip:N",
                size=alt.Size("size:Q", scale=None),
                color=alt.Color("color:N", scale=None),
                opacity=alt.Opacity("opacity:Q", scale=None),
            )
        )
        return alt.layer(line, dots).properties(width=width - 70, height=260)

    kind = one_kind(y for *_, y in shown)
    drawing = draw(chart, kind, alt_text)
    others = one_kind(x for _, _, x, _ in shown)
    return Drawing(drawing.wide, drawing.narrow, kind, alt_text, others, tuple(row for row, *_ in shown))
