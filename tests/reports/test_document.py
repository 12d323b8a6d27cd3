"""The report in other formats: each says what the page says, with where it comes from."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
import yaml

from msq.measurement import Measurement
from msq.provenance import Kind
from msq.recipe import Gates
from reports import wording
from reports.card import model_card
from reports.document import Absent, Confused, Document, Made, as_csv, document
from reports.gates import GateResult, evaluate
from reports.spreadsheet import csv_text
from reports.summary import SHOWN, markdown

DOCS = Path(__file__).parents[2] / "docs" / "reports.md"
HOSTILE = "=cmd()|<script>alert(1)</script>`\n- item\n\n# head [a](http://b) ![c](d)"


def made(measurement: Measurement, gates: Gates | None = None) -> Document:
    return document(measurement, evaluate(gates, measurement))


@pytest.fixture
def attacked(local: Measurement) -> Measurement:
    """A measurement whose names are hostile."""
    manifest = local.manifest
    layers = tuple(layer.model_copy(update={"name": HOSTILE + layer.name}) for layer in manifest.layers)
    data = manifest.data.model_copy(update={"name": HOSTILE})
    names = {"name": HOSTILE, "model": HOSTILE, "method": HOSTILE, "labels": (HOSTILE,) * 10}
    return local.model_copy(
        update={
            "manifest": manifest.model_copy(update={**names, "layers": layers, "data": data}),
            "device": local.device.model_copy(update={"title": HOSTILE, "cpu": HOSTILE}),
            "doubts": (HOSTILE,),
            "command": HOSTILE,
            "figures": {**local.figures, HOSTILE: local.figures["top1"].model_copy(update={"note": HOSTILE})},
        }
    )


def test_json_holds_every_figure_and_is_read_back(local, gates, tmp_path):
    found = made(local, gates)
    found.write(tmp_path / "report.json")
    assert Document.read(tmp_path / "report.json") == found
    assert local.figures.items() <= found.figures.items()
    assert {figure.kind for figure in found.figures.values()} == {Kind.MEASURED_HOST, Kind.ARTEFACT, Kind.MODELLED}


def test_an_emulator_has_no_milliseconds_in_any_format(emulated, local):
    impostor = emulated.model_copy(update={"figures": local.figures, "latency_seconds": local.latency_seconds})
    found = made(impostor)
    assert not any(figure.unit == "seconds" for figure in found.figures.values())
    for text in (markdown(found), as_csv(found), model_card(impostor, found)):
        assert not re.search(r"\bms\b|seconds", text)


def test_csv_has_a_row_a_figure_with_unit_and_kind(local):
    found = made(local)
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(as_csv(found)))}
    for name, figure in found.figures.items():
        assert (float(rows[name]["value"]), rows[name]["unit"], rows[name]["kind"]) == (
            figure.value,
            figure.unit,
            figure.kind.value,
        )
    assert {f"class.{name}" for name in found.classes} | {f"layer.{x.name}.bits" for x in found.layers} <= rows.keys()
    assert all(row["unit"] and row["kind"] for row in rows.values())


def test_no_cell_is_a_formula(attacked):
    cells = [cell for row in csv.reader(io.StringIO(as_csv(made(attacked)))) for cell in row]
    assert not any(re.match(r"[=+@]|-(?![\d.])", cell) for cell in cells) and f"'{HOSTILE}" in cells
    assert csv_text([["=1+1", -1, "a"]]) == "'=1+1,-1,a\n"


def test_markdown_shows_verdict_gates_and_figures_with_their_kinds(local, gates):
    strict = gates.model_copy(update={"min_top1": 0.95})
    found = made(local, strict)
    text = markdown(found)
    assert text.startswith("## ❌ fashion-resnet8 on This machine: Fails 1 of 4 gates")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    first = next(row for row in rows if "failed" in row)
    assert rows.index(first) == 2 and "missed by 3.58 points" in first
    for name, title in SHOWN.items():
        if name in found.figures:
            row = [row for row in rows if row.startswith(f"| {title} |")][-1]
            figure = found.figures[name]
            assert wording.figure(figure) in row and row.endswith(f"| {wording.BADGE[figure.kind]} |")


def test_hostile_names_become_neither_markup_nor_links(attacked, gates):
    found = made(attacked, gates)
    for text in (markdown(found), model_card(attacked, found).split("\n---\n", 1)[1]):
        bare = re.sub(r"</?(sub|br)>", "", text)
        assert not re.search(r"<|\]\(|http://|`|!\[|^# head|^- item", bare, re.MULTILINE)


def test_the_cards_head_is_what_hugging_face_reads(local, attacked):
    for measurement in (local, attacked):
        card = model_card(measurement, made(measurement))
        assert card.startswith("---\n")
        head = yaml.safe_load(card.split("---\n")[1])
        (entry,) = head["model-index"]
        (result,) = entry["results"]
        assert entry["name"] == measurement.manifest.name
        assert result["task"] == {"type": "image-classification"}
        assert result["dataset"]["name"] == measurement.manifest.data.name
        on_device = next(metric for metric in result["metrics"] if metric["name"].startswith("Top-1 on"))
        assert on_device["value"] == pytest.approx(measurement.figures["top1"].value, abs=1e-6)
        assert all(layer.name.split("]")[-1][-5:] in card for layer in measurement.manifest.layers)


def test_what_was_not_measured_is_said_everywhere(emulated):
    found = made(emulated)
    for text in (markdown(found), model_card(emulated, found), json.dumps([a.model_dump() for a in found.absences])):
        assert "Energy" in text and "Latency and throughput" in text


@pytest.mark.parametrize("schema", [Document, GateResult, Confused, Absent, Made])
def test_every_key_of_the_schema_is_documented(schema):
    documented = set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.MULTILINE))
    assert set(schema.model_fields) <= documented
