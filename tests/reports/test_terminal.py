import io
import re

import pytest
from rich.console import Console

from reports.document import document
from reports.gates import evaluate
from reports.report import Outputs, ReportResult
from reports.terminal import show


def printed(measurement, gates, tmp_path, **options) -> str:
    results = evaluate(gates, measurement)
    result = ReportResult(measurement, document(measurement, results), Outputs(page=tmp_path / "page.html"))
    stream = io.StringIO()
    show(result, Console(file=stream, **options))
    return stream.getvalue()


def test_piped_output_has_no_colour_codes_and_fits_100_columns(emulated, local, gates, tmp_path):
    for measurement in (emulated, local):
        shown = printed(measurement, gates, tmp_path)
        assert "\x1b" not in shown
        lines = [line for line in shown.splitlines() if not line.startswith("page: ")]
        assert max(map(len, lines)) <= 100
        assert "91.42 %" in shown and "Passes all 4 gates" in shown


@pytest.mark.parametrize("width", [72, 80, 100, 200])
def test_a_terminal_of_any_width_is_kept_to(emulated, gates, tmp_path, width):
    shown = printed(emulated, gates, tmp_path, force_terminal=True, width=width)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    lines = plain[: plain.index("page: ")].splitlines()
    assert max(map(len, lines)) <= min(width, 100)


def test_an_emulator_has_no_milliseconds(emulated, local, gates, tmp_path):
    impostor = emulated.model_copy(update={"figures": local.figures, "latency_seconds": local.latency_seconds})
    assert " ms" in printed(local, gates, tmp_path)
    assert not re.search(r"\bms\b", printed(impostor, gates, tmp_path))


def test_names_steer_neither_markup_nor_terminal(emulated, gates, tmp_path):
    device = emulated.device.model_copy(update={"title": "[red]Pi[/red] \x1b[31m\x07", "cpu": "[/]"})
    shown = printed(emulated.model_copy(update={"device": device}), gates, tmp_path)
    assert "[red]Pi[/red]" in shown and "\x1b" not in shown and "\x07" not in shown


def test_a_failed_gate_is_named(emulated, gates, tmp_path):
    strict = gates.model_copy(update={"min_top1": 0.95})
    shown = printed(emulated, strict, tmp_path)
    assert "Fails 1 of 4 gates" in shown and "missed by 3.58 points" in shown
