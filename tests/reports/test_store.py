"""The store loses nothing: to other writers, to a kill, to an older release's file, on the way to another store."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measurements import of_file

from msq.errors import BundleError, StorageError, UsageError
from msq.measurement import Measurement
from reports import store as module
from reports.store import MIGRATIONS, Store

# Writes the measurement of a file again and again, each time as another one, and says when it has begun.
WRITER = """
import sys
from pathlib import Path
from msq.measurement import Measurement
from reports.store import Store
file, path, name, count = sys.argv[1:]
one = Measurement.read(Path(file))
with Store(Path(path)) as store:
    for number in range(int(count)):
        store.add(one.model_copy(update={"command": f"{name} {number}"}))
        print(number, flush=True)
"""


@pytest.fixture
def small(emulated: Measurement) -> Measurement:
    return emulated.model_copy(update={"predictions": emulated.predictions[:3]})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.db") as opened:
        yield opened


def numbered(measurement: Measurement, number: int) -> Measurement:
    return measurement.model_copy(
        update={"command": f"run {number}", "created": f"2026-11-{number + 1:02d}T10:00:00+00:00"}
    )


def writer(file: Path, path: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, file, path, name, str(count)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


def test_what_is_kept_comes_back_with_every_raw_sample(store: Store, local: Measurement, emulated: Measurement) -> None:
    ids = store.add(local, emulated)
    assert [store.get(id_[:12])[0].measurement for id_ in ids] == [local, emulated]
    assert store.get(ids[0])[0].measurement.latency_seconds == local.latency_seconds


def test_measurements_of_model_files_are_kept_too(store: Store, local: Measurement, tmp_path: Path) -> None:
    one = of_file(local)
    (id_,) = store.add(one)
    assert store.get(id_)[0].measurement == one and store.history(model="float.onnx")[0].measurement == one
    with Store(tmp_path / "other.db") as other:
        other.add_lines(store.lines(), "lines")
        assert other.history() == store.history()


def test_what_is_added_twice_is_kept_once(store: Store, small: Measurement) -> None:
    assert store.add(small) == store.add(small)
    assert len(store.history()) == 1


def test_several_are_kept_all_or_none(store: Store, small: Measurement) -> None:
    broken = small.model_copy(update={"runtime": None})
    with pytest.raises(BundleError, match="NOT NULL"):
        store.add(small, broken)
    assert store.history() == []


def test_history_finds_by_everything_it_can_be_asked_for(store: Store, small: Measurement, local: Measurement) -> None:
    store.add(*(numbered(small, day) for day in range(4)), local)
    days = lambda **asked: [kept.measurement.created[8:10] for kept in store.history(**asked)]  # noqa: E731
    assert days(device="raspberrypi4") == ["01", "02", "03", "04"]
    assert days(device="raspberrypi4", last=2) == ["03", "04"]
    # A date counts to its end.
    assert days(since="2026-11-02", until="2026-11-03") == ["02", "03"]
    assert days(since="2026-11-02T10:00:01") == ["03", "04"]
    assert days(runtime="native") == days(model="other") == days(released=True) == []
    assert [kept.measurement.device.name for kept in store.history(device="local")] == ["local"]


def test_a_release_is_found_by_its_name_and_as_the_last_one(store: Store, small: Measurement) -> None:
    first, second, third = (store.add(numbered(small, day))[0] for day in range(3))
    store.mark([first], "1.0")
    store.mark([second], "1.1")
    assert [kept.id for kept in store.get("1.0")] == [first]
    last = store.last_release(small)
    assert last and (last.id, last.release) == (second, "1.1")
    assert store.last_release(small.model_copy(update={"runtime": "native"})) is None
    assert [kept.release for kept in store.get(third)] == [None]


def test_names_that_are_none_or_several_are_refused(store: Store, small: Measurement) -> None:
    ids = store.add(*(numbered(small, day) for day in range(20)))
    shared = next(first[0] for first in ids if sum(other[0] == first[0] for other in ids) > 1)
    for name, said in (("", "neither"), ("%", "neither"), ("no such", "neither"), (shared, "several")):
        with pytest.raises(UsageError, match=said):
            store.get(name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(text=st.text(st.characters(exclude_categories=["Cs"])), value=st.floats(allow_nan=False, allow_infinity=False))
def test_any_measurement_survives_export_and_import(
    tmp_path_factory: pytest.TempPathFactory, small: Measurement, text: str, value: float
) -> None:
    figures = {text: small.figures["top1"].model_copy(update={"value": value, "note": text})}
    changed = small.model_copy(update={"figures": figures, "command": text})
    folder = tmp_path_factory.mktemp("stores")
    with Store(folder / "a.db") as first, Store(folder / "b.db") as second:
        first.add(changed, release="1.0")
        lines = list(first.lines())
        assert second.add_lines(lines, "lines") == second.add_lines(lines, "lines") == 1
        assert second.history() == first.history()
        assert second.history()[0].measurement == changed


def test_a_line_that_was_altered_adds_nothing_of_its_file(store: Store, small: Measurement, tmp_path: Path) -> None:
    store.add(numbered(small, 0), numbered(small, 1))
    first, second = store.lines()
    altered = second.replace('"equal_to_host":true', '"equal_to_host":false')
    with Store(tmp_path / "other.db") as other:
        for lines, said in (([first, altered], "file:2: not the measurement"), ([first, "{}"], "file:2: id: Field")):
            with pytest.raises(BundleError, match=said):
                other.add_lines(lines, "file")
        assert other.history() == []


def test_two_processes_that_write_at_once_lose_nothing(small: Measurement, tmp_path: Path) -> None:
    small.write(tmp_path / "m.json")
    path = tmp_path / "store.db"
    # The store does not exist yet: both also make it at once.
    writers = [writer(tmp_path / "m.json", path, name, 500) for name in ("first", "second")]
    assert [process.communicate()[0].count(b"\n") for process in writers] == [500, 500]
    with Store(path) as opened:
        found = {kept.measurement.command for kept in opened.history()}
    assert found == {f"{name} {number}" for name in ("first", "second") for number in range(500)}


@pytest.mark.parametrize("moment", [1, 20, 40])
def test_a_writer_that_is_killed_leaves_all_it_had_said_and_a_sound_file(
    small: Measurement, tmp_path: Path, moment: int
) -> None:
    small.write(tmp_path / "m.json")
    path = tmp_path / "store.db"
    process = writer(tmp_path / "m.json", path, "killed", 100_000)
    assert process.stdout
    said = [process.stdout.readline() for _ in range(moment)]
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait()
    with Store(path) as opened:
        opened.add(small)
        commands = [kept.measurement.command for kept in opened.history()]
    assert {f"killed {int(line)}" for line in said if line.endswith(b"\n")} <= set(commands)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_file_of_every_older_release_is_brought_up_to_date(small: Measurement, tmp_path: Path) -> None:
    with Store(tmp_path / "new.db") as opened:
        opened.add(small)
    for version in range(len(MIGRATIONS)):
        path = tmp_path / f"{version}.db"
        with closing(sqlite3.connect(path)) as database:
            for migration in MIGRATIONS[:version]:
                database.executescript(migration)
            if version:
                document = json.dumps(small.model_dump(mode="json"))
                row = ("aa", small.created, "m", "msq", "local", "native", document)
                database.execute(
                    "INSERT INTO measurement (id, created, model, method, device, runtime, document) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
            database.execute(f"PRAGMA user_version = {version}")
            database.commit()
        with Store(path) as opened:
            assert [(kept.release, kept.measurement) for kept in opened.history()] == [(None, small)] * bool(version)
            opened.add(small, release="1.0")
        with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(tmp_path / "new.db")) as fresh:
            schema = "SELECT name, sql FROM sqlite_schema ORDER BY name"
            assert database.execute(schema).fetchall() == fresh.execute(schema).fetchall()
            assert database.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    small: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    with Store(path) as opened:
        opened.add(small)
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, "ALTER TABLE measurement ADD COLUMN new TEXT; nonsense"))
    with pytest.raises(StorageError, match="syntax error"):
        Store(path)
    monkeypatch.undo()
    with Store(path) as opened:
        assert [kept.measurement for kept in opened.history()] == [small]


def test_files_that_are_no_store_or_a_newer_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be looked at " * 100)
    with pytest.raises(BundleError, match="text: file is not a database"):
        Store(tmp_path / "text")
    with pytest.raises(StorageError, match="unable to open"):
        Store(tmp_path)
    with Store(tmp_path / "newer.db"), closing(sqlite3.connect(tmp_path / "newer.db")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(BundleError, match="version 99 is newer than"):
        Store(tmp_path / "newer.db")
