"""The commands over what was measured: kept, listed, released, taken elsewhere."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from measurements import of_file

from msq.cli import main
from msq.measurement import Measurement

Msq = Callable[..., tuple[int, str, str]]


@pytest.fixture
def msq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Msq:
    """Return a function that runs a command and returns its exit code, stdout and stderr; the store is a fresh one."""
    monkeypatch.setenv("MSQ_STORE", str(tmp_path / "store.db"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["msq", *map(str, arguments)])
        try:
            main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int) and "Traceback" not in said.err
        return code, said.out, said.err

    return run


@pytest.fixture
def files(emulated: Measurement, local: Measurement, tmp_path: Path) -> dict[str, Path]:
    written = {"emulated": tmp_path / "emulated.json", "local": tmp_path / "local.json"}
    emulated.write(written["emulated"])
    local.write(written["local"])
    return written


def test_what_is_kept_is_listed_as_table_csv_and_json(msq: Msq, files: dict[str, Path], local: Measurement) -> None:
    of_file(local).write(files["local"].with_name("file.json"))
    assert msq("store", "add", *files.values(), files["local"].with_name("file.json"))[0] == 0
    table = msq("history")[1].splitlines()
    assert (
        len(table) == 5
        and sum("float.onnx" in line for line in table) == 1
        and sum("raspberrypi4" in line for line in table) == 1
    )
    rows = list(
        csv.DictReader(
            io.StringIO(msq("history", "--runtime", "onnxruntime", "--device", "local", "--format", "csv")[1])
        )
    )
    assert {row["figure"]: float(row["value"]) for row in rows} == {
        name: figure.value for name, figure in local.figures.items()
    }
    assert {row["kind"] for row in rows if row["unit"] == "seconds"} == {"measured:host"}
    (line,) = msq("history", "--model", "fashion-resnet8", "--device", "local", "--format", "json")[1].splitlines()
    assert Measurement.model_validate(json.loads(line)["measurement"]) == local


def test_a_release_is_the_newest_of_each_model_device_and_runtime(
    msq: Msq, files: dict[str, Path], local: Measurement, tmp_path: Path
) -> None:
    local.model_copy(update={"created": "2024-01-01T00:00:00+00:00"}).write(tmp_path / "older.json")
    msq("store", "add", *files.values(), tmp_path / "older.json")
    assert "1.0: 2 measurements" in msq("store", "release", "1.0")[2]
    released = msq("history", "--released", "--format", "json")[1].splitlines()
    assert [json.loads(line)["measurement"]["created"][:4] for line in released] == ["2025", "2025"]
    assert msq("store", "release", "1.0", "--device", "none")[0] == 2


def test_a_store_is_taken_elsewhere(msq: Msq, files: dict[str, Path], tmp_path: Path) -> None:
    msq("store", "add", *files.values())
    msq("store", "export", tmp_path / "all.jsonl")
    other = ("--store", tmp_path / "other.db")
    assert "2 measurements" in msq("store", "import", tmp_path / "all.jsonl", *other)[2]
    assert msq("history", "--format", "json", *other)[1] == msq("history", "--format", "json")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("history",), 2, "store.db: no such store"),
        (("history", "--since", "yesterday"), 2, "no such store"),
        (("store", "import", "none.jsonl"), 5, "none.jsonl: cannot be read"),
        (("store", "add", "none.json"), 8, "none.json: no such file"),
    ],
)
def test_what_is_not_there_is_one_clear_line(msq: Msq, arguments: tuple[str, ...], code: int, said: str) -> None:
    found, _, error = msq(*arguments)
    assert found == code and said in error
