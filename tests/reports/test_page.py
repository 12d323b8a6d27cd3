import base64
import hashlib
import io
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements import PAYLOAD, change, hostile, other_run
from PIL import Image

from msq.bundle import Arena, Part
from msq.errors import BundleError
from msq.measurement import Conditions, Measurement, Prediction
from msq.provenance import MEANING, Figure, Kind
from msq.recipe import Gates
from reports import charts
from reports.classes import classes
from reports.gates import evaluate
from reports.page import render, trained_bits
from reports.runs import frontier, runs
from reports.store import Store
from reports.thumbnails import albums


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
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(measurement: Measurement, gates: Any = None) -> tuple[str, Page]:
    html = render(measurement, evaluate(gates, measurement))
    return html, Page(html)


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


def addresses(page: Page) -> set[str]:
    names = ("src", "href", "xlink:href", "action", "formaction", "srcset", "data")
    return {str(value) for _, attributes in page.elements for name, value in attributes.items() if name in names}


def policy(page: Page) -> str:
    return next(str(found["content"]) for _, found in page.elements if "http-equiv" in found)


@pytest.mark.parametrize("which", ["emulated_page", "local_page"])
def test_the_page_needs_no_network_and_runs_its_own_script_only(which, request):
    html, page = request.getfixturevalue(which)
    assert not re.search(r"https?:|//[a-z]|\burl\(|@import|\beval\b|innerHTML", html)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy(page) == (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    )
    anchors = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    assert addresses(page) <= anchors
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


def test_doubts_and_images_that_the_host_classes_otherwise_are_shown(local):
    said = [one.model_copy(update={"host": one.predicted}) for one in local.predictions]
    said[5] = said[5].model_copy(update={"host": (said[5].predicted + 1) % 10})
    doubt = "processor 0 ran at 900 of 1500 MHz"
    words = page_of(change(local, doubts=(doubt,), protocol="quick", predictions=tuple(said)))[1].words
    assert f"Doubtful, though the run was repeated: {doubt}." in words and "Protocol quick" in words
    assert f"different classes to 1 of the test images: {said[5].index}." in words


def stored(tmp_path, *measurements):
    with Store(tmp_path / "store.db") as opened:
        opened.add(*measurements)
    return tmp_path / "store.db"


def test_hostile_names_inject_nothing(local, local_page, evaluation, tmp_path):
    arena = Arena(bytes=2048, bound_bytes=2048, timeline={"first": 1024, "second": 2048})
    whole = change(local, arena=arena)
    attacked = Measurement.model_validate(hostile(whole.model_dump(mode="json")))
    strange = Figure(value=1, unit=PAYLOAD, kind=Kind.MODELLED, note=PAYLOAD)
    attacked = attacked.model_copy(update={"figures": {**attacked.figures, PAYLOAD: strange}})
    pages = []
    for one in (whole, attacked):
        store = stored(tmp_path / one.runtime[:4], one, other_run(one))
        html = render(one, evaluate(None, one), runs(one, store), albums(one, evaluation))
        pages.append((html, Page(html)))
    (_, plain), (html, page) = pages
    assert [tag for tag, _ in page.elements if tag in ("script", "img", "a", "form")] == [
        tag for tag, _ in plain.elements if tag in ("script", "img", "a", "form")
    ]
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements}
    assert policy(page) == policy(plain)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses(page))
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.open == [] and html.count("<script") == 1 and "\x1b" not in html and "‮" not in html
    assert page.words.count("<script>alert(1)</script>") > 50
    assert "{{7*7}}" in page.words


def test_the_page_shows_a_measurement_among_all_runs_on_the_same_data(local, emulated, tmp_path):
    data = local.manifest.data.model_copy(update={"sha256": "0" * 64})
    store = stored(tmp_path, local, emulated, other_run(local), change(local, data=data, name="elsewhere"))
    found = runs(local, store)
    assert [run.current for run in found].count(True) == 1 and len(found) == 3
    page = Page(render(local, evaluate(None, local), found))
    rows = [attributes for tag, attributes in page.elements if tag == "tr" and "data-run" in attributes]
    assert [row["data-device"] for row in rows] == [run.device for run in found]
    assert "elsewhere" not in page.words
    # The emulator has no latency; the other two are on the host's axis.
    plots = [attributes for tag, attributes in page.elements if tag == "figure" and "data-rows" in attributes]
    assert [len(str(plot["data-rows"]).split()) for plot in plots] == [3, 2]
    heat = [attributes for _, attributes in page.elements if (attributes.get("class") or "").startswith("heat")]
    assert len(heat) == 1


def test_a_measurement_that_is_not_in_the_store_is_shown_among_the_others(local, tmp_path):
    store = stored(tmp_path, other_run(local))
    assert [run.current for run in runs(local, store)] == [False, True]
    assert [run.current for run in runs(local, None)] == [True]
    assert [run.current for run in runs(local, tmp_path / "none.db")] == [True]


@given(points=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_the_frontier_is_what_no_point_beats(points):
    found = frontier(points)
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert set(found) == set(points) - beaten
    assert found == sorted(found) and [y for _, y in found] == sorted(y for _, y in found)


def test_worst_confusions_are_shown_as_they_lie_in_the_evaluation_set(local, evaluation):
    images = np.load(evaluation / "images.npy")
    shown = albums(local, evaluation)
    worst = classes(local).confusions
    assert [album.count for album in shown] == [found.count for found in worst[: len(shown)]]
    wrong = {said.index: said for said in local.predictions if said.label != said.predicted}
    for album in shown:
        for one in album.thumbnails:
            said = wrong[one.index]
            assert tuple(local.manifest.labels[index] for index in (said.label, said.predicted)) == (
                album.label,
                album.predicted,
            )
            pixels = Image.open(io.BytesIO(base64.b64decode(one.address.split(",")[1])))
            assert np.array_equal(np.asarray(pixels), images[one.index, ..., 0])
    html = render(local, evaluate(None, local), albums=shown)
    assert html.count("<img ") == sum(len(album.thumbnails) for album in shown)


def test_images_of_something_else_are_refused(local, evaluation):
    np.save(evaluation / "labels.npy", np.full(3000, 3))
    with pytest.raises(BundleError, match="is not the one that was measured"):
        albums(local, evaluation)
    (evaluation / "images.npy").unlink()
    with pytest.raises(BundleError, match="missing"):
        albums(local, evaluation)


def test_memory_is_drawn_by_level_and_by_node(local):
    arena = Arena(bytes=4096, bound_bytes=3072, timeline={"first": 1024, "second": 4096})
    kept = dict.fromkeys(("load_peak_memory", "anonymous_memory"), local.figures["peak_memory"])
    page = page_of(change(local, arena=arena, figures={**local.figures, **kept}))[1]
    assert "1.33 × the least that any plan takes" in page.words and "39.39 MiB" in page.words
    tips = [str(attributes["data-tip"]) for _, attributes in page.elements if "data-tip" in attributes]
    assert tips.count("2. second: 4.0 KiB in use") == 2 and tips.count("Steady, own pages: 39.39 MiB") == 2


@given(st.lists(st.floats(1e-5, 1.0), min_size=1, max_size=50))
def test_few_times_lie_above_what_is_drawn(samples):
    top = charts.latency_top(samples)
    assert min(samples) <= top <= max(samples)
    assert sum(sample > top for sample in samples) <= 0.05 * len(samples) + 1


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


def test_conditions_and_what_the_bytes_are_are_told(local):
    before = Conditions(
        governors=("performance",), frequencies_khz=(1_500_000,), limits_khz=(), temperatures={"cpu": 41_000}
    )
    after = before.model_copy(update={"frequencies_khz": (1_200_000,), "temperatures": {"cpu": 63_400}})
    parts = (
        Part(file="weights.bin", what="weights", layer="conv", bytes=9000),
        Part(file="model.json", what="graph", bytes=1234),
    )
    words = page_of(change(local, conditions=(before, after), audit=parts))[1].words
    assert "Governor performance" in words and "1,500 MHz → 1,200 MHz" in words and "41 °C → 63 °C" in words
    assert "weights 9,000" in words and "graph and metadata 1,234" in words
