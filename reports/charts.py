"""Charts: what each figure of the page looks like. An axis carries figures of one kind only."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from msq.bundle import Layer, Sizes
from msq.checkpoint import EpochRecord
from msq.provenance import Figure, Kind
from reports import wording
from reports.drawing import (
    ACCENT,
    ALERT,
    INK,
    LINE,
    MUTED,
    NARROW,
    SOFT,
    Drawing,
    data,
    draw,
    label_room,
    names,
    one_kind,
    ticks,
)

ROW = 30
"""Height of a roomy row in pixels."""
LAYER_ROW = 22
"""Height of a layer's row in pixels."""
MOST_DOTS = 1000
"""Of more samples than this, every second, third … is drawn."""


def accuracies(rows: Mapping[str, Figure], alt_text: str) -> Drawing:
    """Draw accuracies as dots with their 95 % intervals, one a row, on an axis that need not start at zero.

    Raises:
        ValueError: the figures are of different kinds, which share no axis.
    """
    values = [
        {"name": name, "share": found.value, "low": found.low, "high": found.high, "tip": _accuracy_tip(name, found)}
        for name, found in rows.items()
    ]
    bounds = [bound for row in rows.values() for bound in (row.value, row.low, row.high) if bound is not None]
    margin = max(0.002, 0.06 * (max(bounds) - min(bounds)))
    domain = [max(0.0, min(bounds) - margin), min(1.0, max(bounds) + margin)]

    def chart(width: int) -> Any:
        axis = alt.Axis(format=".1~%", tickCount=4 if width <= NARROW else 8, grid=True, title=None)
        options: dict[str, Any] = {"scale": alt.Scale(domain=domain, nice=False, zero=False), "axis": axis}
        base = data(values).encode(y=names(values, width))
        whisker = base.mark_rule(color=ACCENT, strokeWidth=6, opacity=0.28, strokeCap="round")
        dot = base.mark_point(color=ACCENT, filled=True, size=70, opacity=1, aria=True).encode(description="tip:N")
        layered = alt.layer(
            whisker.encode(x=alt.X("low:Q", **options), x2="high:Q"), dot.encode(x=alt.X("share:Q", **options))
        )
        return layered.properties(width=width - label_room(width), height=ROW * len(values))

    return draw(chart, one_kind(rows.values()), alt_text)


def layers(rows: Sequence[Layer], alt_text: str) -> Drawing:
    """Draw, layer by layer in the network's order, the stored bits a weight and beside them how many weights."""
    values = [
        {
            "name": layer.name,
            "bits": layer.bits,
            "weights": layer.weights,
            "count": _count(layer.weights),
            "tip": f"{layer.name}: {layer.bits} bits, {layer.weights:,} weights, {layer.packed_bytes:,} bytes packed",
        }
        for layer in rows
    ]
    most = max(layer.weights for layer in rows)

    def chart(width: int) -> Any:
        room = width - label_room(width) - 20
        base = data(values).encode(y=names(values, width))
        bits = alt.X("bits:Q", scale=alt.Scale(domain=[0, 8.6], nice=False), axis=ticks([0, 2, 4, 6, 8]))
        weights = alt.X("weights:Q", scale=alt.Scale(domain=[0, most * 1.4], nice=False), axis=ticks([]))
        unnamed = base.encode(y=names(values, width, axis=None))
        return alt.hconcat(
            _bars(base, bits, "bits:Q", ACCENT, "stored bits a weight", round(room * 0.62), len(rows)),
            _bars(unnamed, weights, "count:N", SOFT, "weights", round(room * 0.38), len(rows)),
            spacing=20,
        )

    return draw(chart, Kind.ARTEFACT, alt_text)


def _bars(base: alt.Chart, x: alt.X, text: str, color: str, title: str, width: int, rows: int) -> Any:
    placed = base.encode(x=x)
    bar = placed.mark_bar(color=color, height=13, cornerRadiusEnd=2, aria=True).encode(description="tip:N")
    label = placed.mark_text(align="left", dx=5, fontSize=11).encode(text=text)
    heading = alt.Title(title, anchor="start", color=MUTED, fontSize=12, fontWeight="normal", offset=6)
    return alt.layer(bar, label).properties(width=width, height=LAYER_ROW * rows, title=heading)


def history(epochs: Sequence[EpochRecord], budget: float | None, alt_text: str) -> Drawing:
    """Draw the average stored bits a weight after each epoch, with the budget as a line."""
    shown = [f"{record.average_bits:.2f}" for record in epochs]
    values = [
        {
            "step": step,
            "bits": record.average_bits,
            "tip": f"epoch {step}, {record.phase}: {record.average_bits:.3f} bits",
            # A width that stays as it was is not written again.
            "text": "" if step > 1 and shown[step - 2] == shown[step - 1] else shown[step - 1],
        }
        for step, record in enumerate(epochs, 1)
    ]
    top = max(8.0, *(record.average_bits for record in epochs))

    def chart(width: int) -> Any:
        x = alt.X(
            "step:Q",
            scale=alt.Scale(domain=[0.6, len(epochs) + 0.4], nice=False, zero=False),
            axis=alt.Axis(tickMinStep=1, tickCount=min(len(epochs), 10), format="d", title="epoch"),
        )
        scale = alt.Scale(domain=[0, top + 0.9], nice=False)
        y = alt.Y("bits:Q", scale=scale, axis=alt.Axis(values=[0, 2, 4, 6, 8], grid=True, title=None))
        base = data(values).encode(x=x, y=y)
        begin = data(_starts(epochs)).encode(x=x)
        parts = [
            begin.mark_rule(color=LINE, strokeDash=[2, 3]),
            _named(begin),
            base.mark_line(color=ACCENT, strokeWidth=2),
            base.mark_point(color=ACCENT, filled=True, size=45, opacity=1, aria=True).encode(description="tip:N"),
        ]
        if len(epochs) <= (10 if width <= NARROW else 24):
            parts.append(base.mark_text(dy=-12, fontSize=11).encode(text="text:N"))
        if budget is not None:
            limit = data([{"bits": budget, "text": f"budget {budget:.2f}"}]).encode(y=y)
            parts.append(limit.mark_rule(color=ALERT, strokeDash=[5, 4]))
            label = limit.mark_text(align="right", dy=11, color=ALERT, fontSize=11)
            parts.append(label.encode(text="text:N", x=alt.value("width")))
        return alt.layer(*parts).properties(width=width - 20, height=200)

    return draw(chart, Kind.ARTEFACT, alt_text)


def layer_history(epochs: Sequence[EpochRecord], alt_text: str) -> Drawing:
    """Draw the stored bits of every layer after each epoch as cells, the darker the wider; phases stand above."""
    layers = dict.fromkeys(name for record in epochs for name in record.bits)
    values = [
        {"name": name, "step": step, "bits": bits, "depth": 0.06 + 0.62 * bits / 8}
        for step, record in enumerate(epochs, 1)
        for name, bits in record.bits.items()
    ]

    def chart(width: int) -> Any:
        room = width - label_room(width)
        every = max(1, round(len(epochs) / 12))
        axis = alt.Axis(values=list(range(1, len(epochs) + 1, every)), labelAngle=0, title="epoch")
        x = alt.X("step:O", axis=axis, scale=alt.Scale(paddingInner=0.06))
        base = data(values).encode(x=x, y=names([{"name": name} for name in layers], width))
        cells = base.mark_rect(color=ACCENT).encode(opacity=alt.Opacity("depth:Q", scale=None))
        begin = data(_starts(epochs)).encode(x=alt.X("step:O", bandPosition=0))
        parts = [cells, begin.mark_rule(color=INK, strokeDash=[2, 3]), _named(begin)]
        if room / len(epochs) >= 14:
            parts.append(base.mark_text(fontSize=11).encode(text="bits:Q"))
        return alt.layer(*parts).properties(width=room, height=LAYER_ROW * len(layers))

    return draw(chart, Kind.ARTEFACT, alt_text)


def _starts(epochs: Sequence[EpochRecord]) -> list[dict[str, Any]]:
    """Return where, counting epochs from 1, a phase begins, and its name."""
    pairs = enumerate(zip([None, *epochs], epochs, strict=False), 1)
    return [
        {"step": step, "phase": record.phase}
        for step, (before, record) in pairs
        if before is None or before.phase != record.phase
    ]


def _named(begin: alt.Chart) -> Any:
    """Return the names of phases, above the drawing and from their first epoch on."""
    return begin.mark_text(align="left", color=MUTED, fontSize=11).encode(text="phase:N", y=alt.value(-8))


def sizes(found: Sizes, alt_text: str) -> Drawing:
    """Draw the model file beside the same weights in int8 and float32, with the file's limit as a mark."""
    model, weights = found.model_bytes, min(found.weight_bytes, found.model_bytes)
    parameters = min(weights + found.parameter_bytes, model)
    parts = [
        ("model file", 0, weights, ACCENT, 1.0),
        ("model file", weights, parameters, ACCENT, 0.65),
        ("model file", parameters, model, ACCENT, 0.35),
        ("int8 weights", 0, found.int8_bytes, SOFT, 1.0),
        ("float32 weights", 0, found.float32_bytes, SOFT, 1.0),
    ]
    values = [
        {"name": name, "from": low, "to": high, "color": color, "opacity": opacity}
        for name, low, high, color, opacity in parts
    ]
    against = f"{wording.size(model)}, limit {wording.size(found.limit_bytes)}"
    ends = [
        {"name": "model file", "to": max(model, found.limit_bytes), "text": against},
        {"name": "int8 weights", "to": found.int8_bytes, "text": wording.size(found.int8_bytes)},
        {"name": "float32 weights", "to": found.float32_bytes, "text": wording.size(found.float32_bytes)},
    ]
    limit = [{"name": "model file", "to": found.limit_bytes}]
    top = max(found.limit_bytes, model, found.int8_bytes, found.float32_bytes)

    def chart(width: int) -> Any:
        scale = alt.Scale(domain=[0, top * (1.4 if width <= NARROW else 1.12)], nice=False)
        options: dict[str, Any] = {"scale": scale, "axis": None}
        y = names(ends, width)
        bars = data(values).mark_bar(height=16)
        bars = bars.encode(
            x=alt.X("from:Q", **options),
            x2="to:Q",
            y=y,
            color=alt.Color("color:N", scale=None),
            opacity=alt.Opacity("opacity:Q", scale=None),
        )
        x = alt.X("to:Q", **options)
        label = data(ends).mark_text(align="left", dx=7).encode(x=x, y=y, text="text:N")
        mark = data(limit).mark_tick(color=ALERT, thickness=2, height=26).encode(x=x, y=y)
        return alt.layer(bars, mark, label).properties(width=width - label_room(width), height=ROW * len(ends))

    return draw(chart, Kind.ARTEFACT, alt_text)


def latency_top(samples: Sequence[float]) -> float:
    """Return the longest time that is drawn to scale: a few stragglers must not press all others into a line."""
    ordered = sorted(samples)
    high = ordered[int(0.95 * (len(ordered) - 1))]
    return min(ordered[-1], high + 2 * (high - ordered[0]))


def latencies(samples: Sequence[float], marks: Mapping[str, Figure], alt_text: str) -> Drawing:
    """Draw raw samples (seconds) in the order they were taken and how all of them are spread, with marks as lines.

    Samples above latency_top are triangles at the upper edge.

    Raises:
        ValueError: the marks are of different kinds.
    """
    low, high = 1000 * min(samples), 1000 * latency_top(samples)
    margin = 0.06 * (high - low) or 0.06 * high
    edge = high + margin
    values = [
        {
            "run": run,
            "ms": min(1000 * seconds, edge),
            "shape": "triangle-up" if 1000 * seconds > high else "circle",
            "tip": f"run {run}: {wording.duration(seconds)}",
        }
        for run, seconds in enumerate(samples, 1)
    ]
    # Of too many samples every second, third … is drawn, and every one that stands out.
    step = -(-len(values) // MOST_DOTS)
    dots = [row for index, row in enumerate(values) if index % step == 0 or row["shape"] != "circle"]
    lines: list[dict[str, Any]] = []
    for name, mark in sorted(marks.items(), key=lambda item: item[1].value):
        ms = min(1000 * mark.value, edge)
        # Labels of neighbouring lines are kept apart.
        label = max(ms, lines[-1]["label"] + 1.2 * margin) if lines else ms
        lines.append({"ms": ms, "label": label, "text": f"{name} {wording.figure(mark)}"})

    def chart(width: int) -> Any:
        scale = alt.Scale(domain=[max(0, low - margin), edge], nice=False, zero=False)
        y = alt.Y("ms:Q", scale=scale, axis=alt.Axis(grid=True, tickCount=5, title="ms"))
        run = alt.X("run:Q", axis=alt.Axis(title="run", tickCount=5), scale=alt.Scale(nice=False))
        order = data(dots).mark_point(filled=True, size=22, color=ACCENT, opacity=0.5, aria=True)
        order = order.encode(x=run, y=y, description="tip:N", shape=alt.Shape("shape:N", scale=None))
        rule = data(lines).encode(y=y)
        named = data(lines).mark_text(align="left", dx=6)
        named = named.encode(text="text:N", x=alt.value("width"), y=alt.Y("label:Q", scale=scale))
        spread = data(values).mark_bar(color=SOFT)
        spread = spread.encode(
            y=alt.Y("ms:Q", bin=alt.Bin(maxbins=30), scale=scale, axis=None),
            x=alt.X("count()", axis=alt.Axis(title="runs", tickCount=2)),
        )
        left = alt.layer(order, rule.mark_rule(color=INK, strokeDash=[5, 4]))
        right = alt.layer(spread, rule.mark_rule(color=INK, strokeDash=[5, 4]), named)
        room = width - 180
        return alt.hconcat(
            left.properties(width=round(room * 0.62), height=220),
            right.properties(width=round(room * 0.38), height=220),
            spacing=12,
        )

    return draw(chart, one_kind(marks.values()), alt_text)


def _count(number: int) -> str:
    return f"{number:,}" if number < 10_000 else f"{number / 1000:,.0f} k"


def _accuracy_tip(name: str, found: Figure) -> str:
    return f"{name}: {wording.figure(found)}, 95 % {wording.interval(found)}, {found.n or 0:,} images"
