"""`msq history` and `msq store`: what was measured before, and taking it elsewhere."""

import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from msq import atomic, measurement
from msq.errors import DataError, UsageError
from msq.terminal import messages, print_wide
from reports.store import DEFAULT, Store

store_app = typer.Typer(help="The store of measurements: add, import, export, releases.", no_args_is_help=True)

StorePath = Annotated[Path, typer.Option("--store", envvar="MSQ_STORE", help="Store of measurements (SQLite).")]
Model = Annotated[str | None, typer.Option(help="Only those of this model, by its recipe's name.")]
Device = Annotated[str | None, typer.Option(help="Only those of this device.")]
OfRuntime = Annotated[str | None, typer.Option("--runtime", help="Only those of this runtime.")]


class Format(StrEnum):
    """How `msq history` prints: for people, for a spreadsheet, or for a program."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def history(
    model: Model = None,
    device: Device = None,
    runtime: OfRuntime = None,
    since: Annotated[str | None, typer.Option(help="First date or time (ISO 8601, UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Last date or time; a date counts to its end.")] = None,
    released: Annotated[bool, typer.Option("--released", help="Only those of a release.")] = False,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many, the newest.")] = None,
    as_: Annotated[Format, typer.Option("--format", help="csv: a row a figure; json: whole measurements.")] = (
        Format.TABLE
    ),
    store: StorePath = DEFAULT,
) -> None:
    """List the measurements of the store, the oldest first."""
    from reports.history import figures, rows
    from reports.spreadsheet import csv_text

    with _open(store) as opened:
        found = opened.history(
            model=model,
            device=device,
            runtime=runtime,
            since=_date(since),
            until=_date(until),
            released=released,
            last=last,
        )
    match as_:
        case Format.JSON:
            sys.stdout.write("".join(f"{kept.model_dump_json()}\n" for kept in found))
        case Format.CSV:
            sys.stdout.write(csv_text(figures(found)))
        case Format.TABLE:
            header, *body = rows(found)
            table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
            for row in body:
                table.add_row(*row)
            print_wide(table)


@store_app.command()
def add(
    files: Annotated[list[Path], typer.Argument(help="Measurements (JSON), such as `msq measure` wrote.")],
    store: StorePath = DEFAULT,
) -> None:
    """Keep measurements that lie in files."""
    found = [measurement.read(file) for file in files]
    with Store(store) as opened:
        ids = opened.add(*found)
    for file, id_ in zip(files, ids, strict=True):
        messages.print(f"{file}: {id_[:12]}", highlight=False, markup=False, soft_wrap=True)


@store_app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="JSON lines that `msq store export` wrote.")],
    store: StorePath = DEFAULT,
) -> None:
    """Add what another store exported; what is there already is left as it is."""
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise DataError(f"{file}: cannot be read: {reason}") from None
        with Store(store) as opened:
            count = opened.add_lines(text.splitlines(), str(file))
        messages.print(f"{file}: {count} measurements", highlight=False, markup=False, soft_wrap=True)


@store_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File of JSON lines to write, a measurement a line.")],
    store: StorePath = DEFAULT,
) -> None:
    """Write every measurement, raw samples included."""
    with _open(store) as opened, atomic.atomic_file(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in opened.lines())


@store_app.command()
def release(
    name: Annotated[str, typer.Argument(help="Name of the release, such as 1.4.0.")],
    ids: Annotated[
        list[str] | None, typer.Argument(help="Measurements by the begin of their ids; default: see --model.")
    ] = None,
    model: Model = None,
    device: Device = None,
    runtime: OfRuntime = None,
    store: StorePath = DEFAULT,
) -> None:
    """Mark measurements as those of a release, which later ones are judged against.

    Without ids, the newest of every model, device and runtime, as far as --model, --device and --runtime let through.
    """
    with _open(store) as opened:
        if ids:
            found = [kept for id_ in ids for kept in opened.get(id_)]
        else:
            newest = {
                (kept.measurement.name, kept.measurement.device.name, kept.measurement.runtime): kept
                for kept in opened.history(model=model, device=device, runtime=runtime)
            }
            found = list(newest.values())
        if not found:
            raise UsageError(f"{store}: no such measurement", hint="`msq history` lists what there is")
        opened.mark([kept.id for kept in found], name)
    messages.print(f"{name}: {len(found)} measurements", highlight=False, markup=False, soft_wrap=True)


def _open(path: Path) -> Store:
    """Open a store that must be there: one that is not would be empty, and hide a path that is mistyped."""
    if not path.exists():
        raise UsageError(f"{path}: no such store", hint="`msq measure` makes it; --store names another")
    return Store(path)


def _date(text: str | None) -> str | None:
    if text is not None:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(f"{text!r} is no date", hint="write it as 2026-11-25 or 2026-11-25T14:30") from None
    return text
