import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from msq.measurement import Measurement, Prediction
from msq.provenance import MEANING, Figure, Kind
from msq.recipe import Gates
from reports import charts
from reports.gates import evaluate
from reports.page import render, trained_bits

PAYLOAD = "</title></style></svg><script>alert(1)</script><img src=x onerror=alert(1)>\"'\x1b\x00‮{{7*7}}"
LITERALS = {"what", "op", "kind", "engine", "runtime_mode", "unit", "value"}


class Page(HTMLParser):
    """The page's elements in order, its visible text, and which elements were left open."""

    VOID = {"meta", "br", "img", "link", "col"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(measurement: Measurement, gates: Any = None) -> tuple[str, Page]:
    html = render(measurement, evaluate(gates, measurement))
    return html, Page(html)


def change(measurement: Measurement, **updates: Any) -> Measurement:
    """Update the measurement, and its manifest by the fields that are the manifest's."""
    inner = {name: value for name, value in updates.items() if name in type(measurement.manifest).model_fields}
    outer = {name: value for name, value in updates.items() if name not in inner}
    return measurement.model_copy(update={"manifest": measurement.manifest.model_copy(update=inner), **outer})


@pytest.fixture(scope="module")
def emulated_page(emulated) -> tuple[str, Page]:
    return page_of(emulated)


@pytest.fixture(scope="module")
def local_page(local) -> tuple[str, Page]:
    return page_of(local)


def kind_of(badge: dict[str, str | None]) -> str:
    return Kind[str(badge["class"]).split()[1].upper()].value


@pytest.mark.parametrize("which", ["emulated_page", "local_page"])
def test_every_figure_carries_the_badge_of_its_kind(which, request):
    _, page = request.getfixturevalue(which)
    shown = 0
    for position, (tag, attributes) in enumerate(page.elements):
        if "data-kind" not in attributes:
            continue
        shown += 1
        # A list's badge stands in the heading before it; any other figure's badge comes next.
        around = page.elements[position::-1] if tag == "dl" else page.elements[position:]
        badge = next(found for name, found in around if name == "abbr")
        assert kind_of(badge) == attributes["data-kind"]
        assert badge["title"] == MEANING[Kind(str(attributes["data-kind"]))]
    assert shown > 25


def test_every_number_with_a_unit_is_a_figure_or_stands_beside_one(emulated, emulated_page):
    _, page = emulated_page
    values = {attributes.get("value") for tag, attributes in page.elements if tag == "data"}
    for found in emulated.figures.values():
        assert str(found.value) in values
    assert all(attributes["data-kind"] for tag, attributes in page.elements if tag in ("data", "figure"))


def test_the_legend_explains_every_kind(emulated_page):
    assert all(meaning in emulated_page[1].words for meaning in MEANING.values())


@pytest.mark.parametrize("which", ["emulated_page", "local_page"])
def test_the_page_needs_no_network_and_runs_no_script(which, request):
    html, page = request.getfixturevalue(which)
    assert not re.search(r"https?:|//[a-z]|\burl\(|@import", html)
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in page.elements}
    assert not any(name in ("src", "href", "xlink:href") for _, attributes in page.elements for name in attributes)
    assert page.open == []


def test_figures_of_different_kinds_share_no_axis(emulated):
    rows = {
        "host": Figure(value=0.9, unit="fraction", kind=Kind.MEASURED_HOST),
        "device": Figure(value=0.9, unit="fraction", kind=Kind.EMULATED),
    }
    with pytest.raises(ValueError, match="share no axis"):
        charts.accuracies(rows, "")


def test_host_and_device_accuracy_are_drawn_apart(emulated_page):
    kinds = [attributes["data-kind"] for tag, attributes in emulated_page[1].elements if tag == "figure"]
    assert kinds[:2] == ["measured:host", "emulated:functional"]


def test_an_emulated_measurement_shows_no_milliseconds(emulated, local, emulated_page):
    assert not re.search(r"\bms\b", emulated_page[1].words)
    assert "Latency and throughput" in emulated_page[1].words
    impostor = emulated.model_copy(update={"figures": local.figures, "latency_seconds": local.latency_seconds})
    assert not re.search(r"\bms\b", page_of(impostor)[1].words)


def test_a_local_measurement_shows_its_latency_and_how_it_was_estimated(local_page):
    words = local_page[1].words
    assert "0.649 ms" in words and "nearest rank" in words and "300 runs" in words
    assert "Latency on a board" in words


def test_gates_that_are_not_judged_are_shown(emulated):
    words = page_of(emulated, Gates(max_latency_p90_ms=1))[1].words
    assert "Passes 1 of 2 gates, 1 not judged here" in words and "nothing was measured not judged" in words


def hostile(value: Any, key: str = "") -> Any:
    """Add the payload to every free text, keys of free tables included."""
    if isinstance(value, dict):
        free = key in {"facts", "libraries", "versions", "files", "differing", "figures", "bits"}
        return {name + PAYLOAD if free else name: hostile(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, key) for inner in value]
    return value + PAYLOAD if isinstance(value, str) and key not in LITERALS else value


def test_doubts_and_images_that_the_host_classes_otherwise_are_shown(local):
    said = [one.model_copy(update={"host": one.predicted}) for one in local.predictions]
    said[5] = said[5].model_copy(update={"host": (said[5].predicted + 1) % 10})
    doubt = "processor 0 ran at 900 of 1500 MHz"
    words = page_of(change(local, doubts=(doubt,), protocol="quick", predictions=tuple(said)))[1].words
    assert f"Doubtful, though the run was repeated: {doubt}." in words and "Protocol quick" in words
    assert f"different classes to 1 of the test images: {said[5].index}." in words


def test_hostile_names_inject_nothing(local, local_page):
    attacked = Measurement.model_validate(hostile(local.model_dump(mode="json")))
    strange = Figure(value=1, unit=PAYLOAD, kind=Kind.MODELLED, note=PAYLOAD)
    attacked = attacked.model_copy(update={"figures": {**attacked.figures, PAYLOAD: strange}})
    html, page = page_of(attacked)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in local_page[1].elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.open == [] and "<script" not in html and "\x1b" not in html and "‮" not in html
    assert page.words.count("<script>alert(1)</script>") > 50
    assert "{{7*7}}" in page.words


def test_every_chart_says_in_words_what_it_shows(emulated_page):
    drawings = [attributes for tag, attributes in emulated_page[1].elements if tag == "svg"]
    assert len(drawings) >= 12
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)


def test_colours_come_from_the_style_sheet_so_that_light_and_dark_both_work(emulated_page):
    for _, attributes in emulated_page[1].elements:
        for name in ("fill", "stroke"):
            colour = attributes.get(name)
            assert colour is None or colour in ("none", "transparent") or colour.startswith("var(--")


def test_every_table_has_a_caption(emulated_page):
    tags = [tag for tag, _ in emulated_page[1].elements]
    assert tags.count("table") == tags.count("caption")


def test_a_measurement_with_every_optional_part_missing_still_makes_a_page(emulated):
    layers = tuple(
        layer.model_copy(update={"bits": 0, "paper_bits": 0, "packed_bytes": 0, "beta": None, "omega": None})
        for layer in emulated.manifest.layers[:1]
    )
    bare = change(
        emulated,
        layers=layers,
        average_bits=0.0,
        budget_bits=None,
        paper_compression=None,
        fidelity=None,
        accuracy=(),
        history=(),
        labels=(),
        versions={},
        predictions=(),
        figures={},
    )
    words = page_of(bare)[1].words
    assert "The device was given no test images." in words
    assert "Accuracy: Float The checkpoint does not hold it." in words


def words_of(drawing: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawing).iter("text")]


def test_the_bits_of_every_layer_and_their_average_are_drawn_epoch_by_epoch_with_the_phases(emulated):
    records = trained_bits(emulated.manifest.history)
    assert len(records) == 6
    average = words_of(charts.history(records, 2.7, "").wide)
    # Fine-tuning begins at the widths that pruning ended with, which are not written again.
    expected = list(dict.fromkeys(f"{record.average_bits:.2f}" for record in records))
    assert [word for word in average if re.fullmatch(r"\d\.\d\d", word)] == expected
    cells = words_of(charts.layer_history(records, "").wide)
    names = list(records[0].bits)
    assert [word for word in cells if word in names] == names
    bits = Counter(str(bits) for record in records for bits in record.bits.values())
    epochs = Counter(str(step) for step in range(1, 7))
    assert Counter(word for word in cells if word.isdigit()) == bits + epochs
    for words in (average, cells):
        assert [word for word in words if word in ("msq", "finetune", "float")] == ["msq", "finetune"]


def test_labels_without_names_and_many_classes_are_shown(emulated):
    answers = tuple(Prediction(index=index, label=index % 40, predicted=index % 39) for index in range(400))
    html, page = page_of(change(emulated, predictions=answers, labels=("one",)))
    assert "class 39" in page.words and "20 of 40 classes" in page.words
    assert 'class="matrix"' not in html


def test_times_that_are_all_equal_are_drawn(local):
    _, page = page_of(local.model_copy(update={"latency_seconds": (0.001, 0.001)}))
    assert "2 runs" in page.words


def test_the_page_is_the_same_whenever_it_is_made(emulated, emulated_page):
    assert page_of(emulated)[0] == emulated_page[0]
