import pytest
from measurements import of_file

from msq.errors import BundleError, GateError, UsageError
from reports.report import Outputs, report


def test_a_measurement_file_becomes_a_page_and_gate_results(emulated, gates, tmp_path):
    emulated.write(tmp_path / "measurement.json")
    result = report(tmp_path / "measurement.json", Outputs(page=tmp_path / "out" / "page.html"), gates)
    assert result.passed and len(result.document.gates) == 4
    assert result.outputs.page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["page.html"]
    result.raise_for_gates()


def test_a_failed_gate_still_leaves_a_page_and_is_raised_on_demand(emulated, gates, tmp_path):
    emulated.write(tmp_path / "measurement.json")
    strict = gates.model_copy(update={"min_top1": 0.95})
    result = report(tmp_path / "measurement.json", Outputs(page=tmp_path / "page.html"), strict)
    assert not result.passed and "Fails 1 of 4 gates" in result.outputs.page.read_text(encoding="utf-8")
    with pytest.raises(GateError, match=r"91\.42 %, wanted at least 95\.00 % \(missed by 3\.58 points\)"):
        result.raise_for_gates()


def test_the_measurement_of_a_model_file_has_no_report(local, tmp_path):
    of_file(local).write(tmp_path / "measurement.json")
    with pytest.raises(UsageError, match="a model file's, not a bundle's"):
        report(tmp_path / "measurement.json", Outputs(page=tmp_path / "page.html"))


def test_a_missing_measurement_and_a_folder_as_page_are_refused(emulated, tmp_path):
    with pytest.raises(BundleError, match="no such file"):
        report(tmp_path / "none.json", Outputs(page=tmp_path / "page.html"))
    emulated.write(tmp_path / "measurement.json")
    with pytest.raises(UsageError, match="is a folder"):
        report(tmp_path / "measurement.json", Outputs(page=tmp_path))
