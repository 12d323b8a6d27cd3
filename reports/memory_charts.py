"""Charts of memory and of where bytes lie: the arena as nodes run, the process's levels, the file by width."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from msq.bundle import Arena, Layer
from msq.provenance import Figure, Kind
from reports import wording
from reports.drawing import ACCENT, ALERT, NARROW, SOFT, Drawing, data, draw, label_room, names, one_kind, ticks

ROW = 30
"""Height of a row in pixels."""


def arena(found: Arena, alt_text: str) -> Drawing:
    """Draw the KiB in use while each node runs, in the order of running, with the arena's size as a line."""
    values = [
        {"step": step, "end": step + 1, "kib": size / 1024, "tip": f"{step + 1}. {node}: {wording.size(size)} in use"}
        for step, (node, size) in enumerate(found.timeline.items())
    ]
    limit = [{"kib": found.bytes / 1024, "text": f"arena {wording.size(found.bytes)}"}]

    def chart(width: int) -> Any:
        y = alt.Y(
            "kib:Q",
            scale=alt.Scale(domain=[0, found.bytes / 1024 * 1.15], nice=False),
            axis=alt.Axis(grid=True, tickCount=4, title="KiB"),
        )
        x = alt.X(
            "step:Q", scale=alt.Scale(domain=[0, len(values)], nice=False), axis=alt.Axis(title="node", format="d")
        )
        bars = data(values).mark_rect(color=ACCENT, opacity=0.8, aria=True)
        bars = bars.encode(x=x, x2="end:Q", y=y, y2=alt.datum(0), description="tip:N")
        line = data(limit).encode(y=y)
        label = line.mark_text(align="right", dy=-8, color=ALERT).encode(text="text:N", x=alt.value("width"))
        parts = [bars, line.mark_rule(color=ALERT, strokeDash=[5, 4]), label]
        return alt.layer(*parts).properties(width=width - 60, height=180)

    return draw(chart, Kind.ARTEFACT, alt_text)


def levels(found: Mapping[str, Figure], alt_text: str) -> Drawing:
    """Draw levels of memory (bytes) by title, one a row.

    Raises:
        ValueError: they are of different kinds, which share no axis.
    """
    return _bars(
        [
            (name, figure.value, wording.figure(figure), f"{name}: {wording.figure(figure)}")
            for name, figure in found.items()
        ],
        one_kind(found.values()),
        alt_text,
    )


def widths(layers: Sequence[Layer], alt_text: str) -> Drawing:
    """Draw the packed bytes of the layers of each width, one width a row, the widest first."""
    rows = []
    for bits in sorted({layer.bits for layer in layers}, reverse=True):
        of = [layer for layer in layers if layer.bits == bits]
        size, weights = sum(layer.packed_bytes for layer in of), sum(layer.weights for layer in of)
        said = f"{wording.size(size)}, {len(of)} layer{'s' if len(of) > 1 else ''}"
        rows.append((f"{bits} bits", size, said, f"{bits} bits: {said}, {weights:,} weights"))
    return _bars(rows, Kind.ARTEFACT, alt_text)


def _bars(rows: Sequence[tuple[str, float, str, str]], kind: Kind, alt_text: str) -> Drawing:
    """Draw a bar a row; a row is a name, a number, the text beside the bar and the mark's tip."""
    values = [{"name": name, "value": value, "text": text, "tip": tip} for name, value, text, tip in rows]
    top = max((value for _, value, _, _ in rows), default=0) or 1

    def chart(width: int) -> Any:
        scale = alt.Scale(domain=[0, top * (1.9 if width <= NARROW else 1.4)], nice=False)
        placed = data(values).encode(y=names(values, width), x=alt.X("value:Q", scale=scale, axis=ticks([])))
        bar = placed.mark_bar(color=SOFT, height=15, cornerRadiusEnd=2, aria=True).encode(description="tip:N")
        label = placed.mark_text(align="left", dx=6).encode(text="text:N")
        return alt.layer(bar, label).properties(width=width - label_room(width), height=ROW * len(values))

    return draw(chart, kind, alt_text)
