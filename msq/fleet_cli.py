"""Many devices and runtimes at once: `msq measure` for each, in a process of its own, so that none takes another along.

Devices go side by side, a device's runtimes one after another. Where this machine itself is timed, it is left alone:
that comes last.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from msq.errors import MsqError, UsageError, error_of
from msq.terminal import messages, print_wide

_MEASURE = "import sys; from msq.cli import main; sys.argv[0] = 'msq'; main()"
HERE = "local"


@dataclass(frozen=True)
class Outcome:
    """What came of one measurement. code: of its exit. said: its error in one line, if there was one."""

    device: str
    runtime: str
    file: Path
    code: int
    said: str


def runtimes_of(bundle: Path, wanted: str) -> list[str]:
    """Return the runtimes of a comma-separated list, or for "all" those that read the bundle.

    Raises UsageError or BundleError.
    """
    import runtimes
    from msq.bundle import Manifest

    if wanted != "all":
        return [runtime for runtime in wanted.split(",") if runtimes.adapter(runtime)]
    reads = Manifest.open(bundle).lowering
    return [name for name in runtimes.names() if reads == runtimes.adapter(name).LOWERING]


def fleet(bundle: Path, devices: Sequence[str], wanted: Sequence[str], out: Path, options: Sequence[str]) -> None:
    """Measure a bundle on every device with every runtime, into `out`/DEVICE/RUNTIME.json, and print what came of each.

    Args:
        options: further ones of `msq measure`, as typed.
    Raises:
        MsqError: one that a measurement ended with, after all have ended; the first, in its own class.
    """
    if len(set(devices)) < len(devices):
        raise UsageError("a device is named twice", hint="name each once")
    found: list[Outcome] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=messages) as progress:
        task = progress.add_task("measurements", total=len(devices) * len(wanted))

        def one_by_one(device: str) -> list[Outcome]:
            done = []
            for runtime in wanted:
                done.append(_measured(bundle, device, runtime, out, options))
                progress.advance(task)
            return done

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for future in as_completed([pool.submit(one_by_one, device) for device in devices if device != HERE]):
                found += future.result()
        found += one_by_one(HERE) if HERE in devices else []
    found.sort(key=lambda one: (devices.index(one.device), wanted.index(one.runtime)))
    print_wide(_table(found))
    if failed := next((one for one in found if one.code), None):
        count = sum(one.code != 0 for one in found)
        kind = error_of(failed.code, MsqError)
        raise kind(f"{count} of {len(found)} measurements failed; the first: {failed.device}, {failed.runtime}")


def _measured(bundle: Path, device: str, runtime: str, out: Path, options: Sequence[str]) -> Outcome:
    file = out / device.replace("/", "-").replace(":", "-") / f"{runtime}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["measure", str(bundle), "--device", device, "--runtime", runtime, "--out", str(file), *options]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    last = (errors or done.stderr.splitlines() or [""])[-1] if done.returncode else ""
    return Outcome(device, runtime, file, done.returncode, last.removeprefix("error: "))


def _table(found: Sequence[Outcome]) -> Table:
    table = Table("Device", "Runtime", "", "Measurement, or what went wrong", box=box.SIMPLE_HEAD, show_edge=False)
    for one in found:
        mark = Text(f"exit {one.code}", "bold red") if one.code else Text("done", "green")
        table.add_row(Text(one.device), Text(one.runtime), mark, Text(one.said or str(one.file)))
    return table
