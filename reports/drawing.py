"""Drawing: an Altair chart becomes a small static SVG that takes its colours from the page's style sheet."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import altair as alt
import vl_convert
from markupsafe import Markup

from msq.provenance import Figure, Kind
from reports.wording import printable

# Vega wants literal colours; these stand for the style sheet's variables, and are replaced after drawing, so
# that one drawing serves light, dark and print.
INK, MUTED, LINE, ACCENT, SOFT, ALERT = (f"#00000{number}" for number in range(1, 7))
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    SOFT: "var(--soft)",
    ALERT: "var(--alert)",
}
_KEPT = re.compile(
    "d|[xy][12]?|c[xy]|r|d[xy]|width|height|viewBox|transform|fill|stroke|(fill-|stroke-)?opacity"
    "|stroke-(width|dasharray|linecap)|text-anchor|font-(size|weight)"
)
"""Attributes that say what is seen."""
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
_STYLE = {
    "background": "transparent",
    "padding": 0,
    "aria": False,
    "view": {"stroke": None},
    "text": {"fontSize": 12, "color": INK},
    "axis": {
        "domain": False,
        "ticks": False,
        "grid": False,
        "gridColor": LINE,
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelPadding": 6,
        "titlePadding": 8,
    },
}
"""Vega-Lite's configuration, the same for all charts."""
WIDE, NARROW = 856, 330
"""Widths in pixels at which each chart is drawn: for a desktop and for a phone."""


@dataclass(frozen=True)
class Drawing:
    """One chart for two widths of page. alt says in words what it shows.

    All figures of an axis are of one kind; across is the kind of those of the x axis, where there are two axes of
    figures. rows says, of a chart of runs, which row of their table each dot is.
    """

    wide: Markup
    narrow: Markup
    kind: Kind
    alt: str
    across: Kind | None = None
    rows: tuple[int, ...] = ()


def draw(chart: Callable[[int], alt.TopLevelMixin], kind: Kind, alt_text: str) -> Drawing:
    """Draw a chart, given as a function of the width it may take in pixels."""
    return Drawing(_svg(chart(WIDE), alt_text), _svg(chart(NARROW), alt_text), kind, alt_text)


def _svg(chart: Any, alt_text: str) -> Markup:
    # Checked against Vega-Lite's schema as it is put together; once more would take as long as drawing it.
    drawn = vl_convert.vegalite_to_svg(chart.to_dict(validate=False) | {"config": _STYLE}, vl_version=_VEGA_LITE)
    root = _cleaned(ElementTree.fromstring(drawn))
    root.set("role", "img")
    root.set("aria-label", printable(alt_text))
    # Serialising escapes all text again; no element is self-closed, as HTML knows that only of its own.
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def data(values: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Return an empty chart over rows. Their texts are made printable: a stray NUL would stop the renderer."""
    rows = [
        {key: printable(value) if isinstance(value, str) else value for key, value in row.items()} for row in values
    ]
    # As text: Altair copies what is no text each time something is added to a chart.
    return alt.Chart(alt.InlineData(values=json.dumps(rows), format=alt.JsonDataFormat(type="json")))


def names(values: Sequence[Mapping[str, Any]], width: int, **options: Any) -> alt.Y:
    """Return rows labelled at the left edge of the page, in the order given."""
    room = label_room(width)
    axis = alt.Axis(title=None, labelColor=INK, labelAlign="left", labelPadding=room, labelLimit=room - 8)
    return alt.Y("name:N", **{"sort": [printable(row["name"]) for row in values], "axis": axis} | options)


def label_room(width: int) -> int:
    """Return the pixels that the labels of rows take of a width."""
    return 130 if width <= NARROW else 170


def ticks(values: list[int]) -> alt.Axis:
    """Return an axis with a grid line at each value."""
    return alt.Axis(values=values, grid=bool(values), title=None)


def one_kind(figures: Iterable[Figure]) -> Kind:
    """Return the kind of figures that share an axis. Raises ValueError: they are of several."""
    kinds = {figure.kind for figure in figures}
    if len(kinds) != 1:
        raise ValueError(f"figures of different kinds share no axis: {sorted(kinds)}")
    return kinds.pop()


def _cleaned(element: ElementTree.Element) -> ElementTree.Element:
    """Keep what is seen: no namespaces, roles, classes or fonts; colours become the page's variables."""
    element.tag = element.tag.rpartition("}")[2]
    tip = element.get("aria-label")
    element.attrib = {
        name: _VARIABLES.get(value, value) for name, value in element.attrib.items() if _KEPT.fullmatch(name)
    }
    if tip:
        # What a mark says of itself; the page's script shows it to pointer and keyboard.
        element.set("data-tip", tip)
    for child in list(element):
        if child.get("display") == "none" or (child.get("class") == "background" and not child.get("fill")):
            element.remove(child)
        else:
            _cleaned(child)
    return element
