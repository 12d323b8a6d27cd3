"""The result of a benchmark: every figure with its bar, on which machine, by which command."""

import functools
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from msq.artefact import Artefact, Strict
from msq.atomic import write_text


class Bar(Strict):
    """One thing that a benchmark must show. measured is None where it could not be measured; note says why."""

    what: str
    asked: str
    measured: float | None
    met: bool | None
    note: str = ""


class Result(Artefact):
    """A benchmark's JSON."""

    benchmark: str
    command: str
    created: str
    commit: str
    """Of the code that was measured; "+" behind it says that it was changed since."""
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, Any]
    figures: list[dict[str, Any]]
    bars: list[Bar]


def at_least(what: str, measured: float | None, bar: float, note: str = "") -> Bar:
    """Return a bar that asks for no less."""
    return Bar(
        what=what, asked=f"≥ {bar:g}", measured=measured, met=None if measured is None else measured >= bar, note=note
    )


def at_most(what: str, measured: float | None, bar: float, note: str = "") -> Bar:
    """Return a bar that asks for no more."""
    return Bar(
        what=what, asked=f"≤ {bar:g}", measured=measured, met=None if measured is None else measured <= bar, note=note
    )


def finish(
    benchmark: str,
    settings: dict[str, Any],
    figures: list[dict[str, Any]],
    bars: list[Bar],
    out: Path,
    target: str = "",
) -> int:
    """Write the result, print its table last, and return the exit status: 1 where CHECK=1 and a bar was missed.

    Args:
        target: of make, where it is not named as the benchmark.
    """
    result = Result(
        benchmark=benchmark,
        command=f"make bench-{target or benchmark}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_commit(),
        machine=machine(),
        versions={name: metadata.version(name) for name in ("torch", "lightning", "numpy")},
        settings=settings,
        figures=figures,
        bars=bars,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{benchmark}.json", result.model_dump_json(indent=1) + "\n")
    console = Console()
    table = Table("bar", "asked", "measured", "met", "note")
    for bar in bars:
        found = "not measured" if bar.measured is None else f"{bar.measured:.3g}"
        table.add_row(bar.what, bar.asked, found, {None: "–", True: "yes", False: "NO"}[bar.met], bar.note)
    console.print(table)
    return int(os.environ.get("CHECK") == "1" and any(bar.met is False for bar in bars))


def _commit() -> str:
    git = functools.partial(subprocess.run, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    try:
        found = git(["git", "rev-parse", "--short=12", "HEAD"])
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except FileNotFoundError:
        return "unknown"
    return "unknown" if found.returncode else found.stdout.strip() + ("+" if changed else "")


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    found = {"system": platform.platform(), "cpus": str(os.cpu_count()), "threads": str(torch.get_num_threads())}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = {line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")}
        found["cpu"] = ", ".join(sorted(names))
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    found["python"] = sys.version.split()[0]
    return found
