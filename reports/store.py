"""The store: measurements with all their raw samples in one SQLite file, to be looked up, compared and exported.

A measurement is kept as JSON with sorted keys and without blanks, under the sha256 of that text: what is added twice is
there once. What a query filters by stands beside it in columns. Writers of several processes wait for one another
(WAL, which wants a local disk and not a network's); a write is there whole or not at all, whatever stops the writer.

The file's `user_version` is the number of MIGRATIONS that it has seen; opening it applies those that it has not.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import ValidationError

from msq.artefact import Strict, as_json, first_problem
from msq.errors import BundleError, StorageError, UsageError
from msq.measurement import FileMeasurement, Measured, Measurement

DEFAULT = Path("build/store.db")

MIGRATIONS = (
    """
    CREATE TABLE measurement (
        id TEXT PRIMARY KEY, created TEXT NOT NULL, model TEXT NOT NULL, method TEXT NOT NULL, device TEXT NOT NULL,
        runtime TEXT NOT NULL, document TEXT NOT NULL
    ) STRICT;
    CREATE INDEX by_created ON measurement (created);
    """,
    """
    ALTER TABLE measurement ADD COLUMN release TEXT;
    CREATE INDEX by_release ON measurement (model, device, runtime) WHERE release IS NOT NULL;
    """,
)
"""What made the file what it is, in order. One that was released is never changed: another is added."""

WAIT_SECONDS = 60.0
"""How long a writer waits for the others."""


class Kept(Strict):
    """A measurement in the store: its id (sha256 of its JSON, hex), and the release it was marked with, if any."""

    id: str
    release: str | None
    measurement: Measured


class _Row(NamedTuple):
    """A row of the table."""

    id: str
    created: str
    model: str
    method: str
    device: str
    runtime: str
    release: str | None
    document: str

    @classmethod
    def of(cls, found: Measured, values: dict[str, Any], release: str | None) -> Self:
        """Return the row of a measurement whose JSON values are given."""
        document = json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        method = found.manifest.method if isinstance(found, Measurement) else ""
        id_ = sha256(document.encode()).hexdigest()
        return cls(id_, found.created, found.name, method, found.device.name, found.runtime, release, document)


class Store:
    """An open store. Close it, or use it in a `with` statement.

    Args:
        path: of the SQLite file; made when missing.
    Raises:
        BundleError: the file is no store, or one of a newer release. StorageError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Transactions are begun by hand.
            self._database = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
        try:
            with self._errors():
                self._migrate()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, *measurements: Measured, release: str | None = None) -> list[str]:
        """Keep measurements, all of them or, where something fails, none; return their ids in order."""
        return self._insert([_Row.of(found, as_json(found), release) for found in measurements])

    def history(
        self,
        *,
        model: str | None = None,
        device: str | None = None,
        runtime: str | None = None,
        since: str | None = None,
        until: str | None = None,
        released: bool = False,
        last: int | None = None,
    ) -> list[Kept]:
        """Return the measurements that meet all that is given, the oldest first.

        Args:
            since, until: dates or times (ISO 8601), both included; a date counts to its end. last: only so many.
        """
        bounds = {"model = ?": model, "device = ?": device, "runtime = ?": runtime, "created >= ?": since}
        # "2026-11-25" ends after every time that begins with it.
        bounds["created <= ?"] = None if until is None else f"{until}~"
        conditions = [condition for condition, value in bounds.items() if value is not None]
        if released:
            conditions.append("release IS NOT NULL")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        found = self._read(
            f"{where} ORDER BY created DESC, id LIMIT ?",
            [*(value for value in bounds.values() if value is not None), -1 if last is None else last],
        )
        return found[::-1]

    def get(self, name: str) -> list[Kept]:
        """Return the measurement whose id begins with `name`, or those of the release of that name.

        Raises:
            UsageError: there is none, or several ids begin so.
        """
        if of_release := self._read("WHERE release = ? ORDER BY created, id", [name]):
            return of_release
        found = self._read("WHERE substr(id, 1, ?) = ? ORDER BY id LIMIT 2", [len(name), name]) if name else []
        if len(found) != 1:
            what = "several measurements' ids begin with it" if found else "neither a measurement's id nor a release"
            raise UsageError(f"{self._path}: {name!r}: {what}", hint="`msq history` lists ids and releases")
        return found

    def mark(self, ids: Sequence[str], release: str) -> None:
        """Mark measurements, by their whole ids, as those of a release."""
        with self._errors(), self._writing():
            self._database.executemany(
                "UPDATE measurement SET release = ? WHERE id = ?", [(release, id_) for id_ in ids]
            )

    def last_release(self, like: Measurement) -> Kept | None:
        """Return the newest released measurement of the same model, device and runtime; `like` itself is none."""
        where = {"model": like.name, "device": like.device.name, "runtime": like.runtime}
        found = self.history(**where, released=True, last=2)
        return next((kept for kept in reversed(found) if kept.measurement != like), None)

    def lines(self) -> Iterator[str]:
        """Yield every measurement as a line of JSON with the keys id, release and measurement, the oldest first."""
        for id_, release, document, _ in self._rows("ORDER BY created, id", []):
            yield f'{{"id":"{id_}","release":{json.dumps(release)},"measurement":{document}}}'

    def add_lines(self, lines: Iterable[str], source: str) -> int:
        """Keep what `lines` wrote, all of it or nothing; return how many there were.

        Raises:
            BundleError: a line is no such JSON, or the measurement is not the one of its id; the message says where.
        """
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                kept = Kept.model_validate_json(line)
            except ValidationError as error:
                raise BundleError(f"{source}:{number}: {first_problem(error)}", hint="export it again") from None
            # Of what the line says, not of what this release makes of it: a later one may know more keys.
            row = _Row.of(kept.measurement, json.loads(line)["measurement"], kept.release)
            if row.id != kept.id:
                raise BundleError(f"{source}:{number}: not the measurement {kept.id[:12]}…", hint="export it again")
            rows.append(row)
        return len(self._insert(rows))

    def _insert(self, rows: Sequence["_Row"]) -> list[str]:
        with self._errors(), self._writing():
            self._database.executemany(
                f"INSERT INTO measurement ({', '.join(_Row._fields)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET release = coalesce(excluded.release, release)",
                rows,
            )
        return [row.id for row in rows]

    def _read(self, rest: str, values: Sequence[object]) -> list[Kept]:
        return [self._kept(*row) for row in self._rows(rest, values)]

    def _rows(self, rest: str, values: Sequence[object]) -> Iterator[tuple[str, str | None, str, bool]]:
        """Yield id, release, document, and whether it is a bundle's: to try both kinds would take twice as long."""
        columns = "id, release, document, json_type(document, '$.manifest') IS NOT NULL"
        with self._errors():
            yield from self._database.execute(f"SELECT {columns} FROM measurement {rest}", values)

    def _kept(self, id_: str, release: str | None, document: str, of_bundle: bool) -> Kept:
        kind = Measurement if of_bundle else FileMeasurement
        try:
            return Kept(id=id_, release=release, measurement=kind.model_validate_json(document))
        except ValidationError as error:
            raise BundleError(
                f"{self._path}: measurement {id_[:12]}…: {first_problem(error)}",
                hint="a newer release may have kept it",
            ) from None

    def _migrate(self) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        if self._version() == len(MIGRATIONS):
            return
        with self._writing():
            # Asked again: another process may have been first.
            version = self._version()
            if version > len(MIGRATIONS):
                raise BundleError(
                    f"{self._path}: version {version} is newer than {len(MIGRATIONS)}, the newest this release reads",
                    hint="use the release that wrote it",
                )
            for migration in MIGRATIONS[version:]:
                for statement in migration.split(";"):
                    self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _version(self) -> int:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        return int(version)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Take the write lock at once: a reader that becomes a writer could not wait for it."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"{self._path}: {error}", hint="choose another store, or free space under it; WAL wants a local disk"
            ) from None
        except sqlite3.DatabaseError as error:
            raise BundleError(f"{self._path}: {error}", hint="choose another store, or restore this one") from None
        except OSError as error:
            raise StorageError(f"{self._path}: not writable: {error.strerror}", hint="choose another folder") from None
