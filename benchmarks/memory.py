"""What layers hold in memory, packed and as ONNX Runtime's int8: make bench-memory.

Each model is loaded and run in a process of its own, which has loaded a small one of the same kind twice before: once
to have all libraries, and once more to see what a session takes by itself. Counted is what the layers take more than
that: anonymous pages, which are the process's own, and pages of files, which the system can drop and read again. The
highest level is the kernel's own mark, from loading on.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.layers import Layer
from benchmarks.ort import int8_model, packed_model, session
from benchmarks.result import Bar, at_most, finish
from msq.cli import run
from msq.errors import DeviceError
from runtimes._kernels import kernels

LAYERS = [Layer(4096, repeated=4), Layer(512, 8, repeated=8)]
WARM = Layer(64, repeated=4)
PANEL_BYTES = 24576
"""Of weights that are unpacked at once."""
RUNS = 3


def main(
    widths: Annotated[str, typer.Option(help="comma-separated")] = "1,2,3,4,5,6,7",
    out: Path = Path("build/bench"),
    probe: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure every layer at every width, and judge the bars."""
    if probe:
        folder, layer = Path(probe), LAYERS[int(Path(probe, "layer").read_text())]
        print(json.dumps(measured(folder, layer)))
        return
    bits = [int(width) for width in widths.split(",")]
    figures: list[dict[str, Any]] = []
    for number, layer in enumerate(track(LAYERS, "layers", console=Console(stderr=True))):
        for width in [*bits, 8]:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "layer").write_text(str(number))
                for of, where in ((WARM, folder / "warm"), (layer, folder)):
                    if width == 8:
                        where.mkdir(exist_ok=True)
                        (where / "model.onnx").write_bytes(int8_model(of, np.uint8(128)))
                    else:
                        packed_model(of, width, where)
                what = "int8" if width == 8 else f"packed {width}"
                budget = layer.repeated * int(np.prod(layer.weights)) * width // 8
                figures.append({"layer": layer.name, "what": what, "budget": budget, **_probed(folder)})
    _print(figures)
    raise SystemExit(finish("memory", {"widths": bits, "tier": kernels().tier()}, figures, bars(figures), out))


def measured(folder: Path, layer: Layer) -> dict[str, int]:
    """Return the bytes that model.onnx of a folder takes more than a small model: after a few runs, and at most."""
    kernels().use_threads(1)
    first = _Loaded(folder / "warm", WARM)
    frame = _Loaded(folder / "warm", WARM)
    Path("/proc/self/clear_refs").write_text("5")  # the highest level begins anew
    found = _Loaded(folder, layer)
    del first
    return {
        "frame": frame.anonymous,
        # Of its first session a process keeps what a later one finds: not less than nothing is counted.
        "anonymous": max(0, found.anonymous - frame.anonymous),
        "file": found.file,
        "peak": max(found.file, found.peak - frame.anonymous - frame.file),
    }


class _Loaded:
    """A model, with the bytes that the process holds more since it was loaded and run."""

    def __init__(self, folder: Path, layer: Layer) -> None:
        before = _held()
        self._session = session(str(folder / "model.onnx"), str(kernels().path))
        for _ in range(RUNS):
            self._session.run(None, {"x": np.zeros((1, *layer.shape), np.float32)})
        after = _held()
        self.anonymous, self.file = (after[key] - before[key] for key in ("Anonymous", "File"))
        self.peak = after["Peak"] - before["Rss"]


def _held() -> dict[str, int]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    held = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {**held, "File": held["Rss"] - held["Anonymous"], "Peak": 1024 * int(peak.split()[1])}


def _probed(folder: Path) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.memory", "--probe", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"a model could not be measured: {(done.stderr.splitlines() or ['it failed'])[-1]}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def bars(figures: list[dict[str, Any]]) -> list[Bar]:
    """Return what the packed layers must keep to, as multiples of the bits' bytes and a panel's."""
    found = []
    for one in figures:
        if one["what"] == "int8":
            continue
        name, room = f"{one['layer']}, {one['what']}", one["budget"] + PANEL_BYTES
        note = f"{one['anonymous'] / 1024:.0f} KiB anonymous, {one['file'] / 1024:.0f} KiB of files"
        found += [
            at_most(f"{name}: resident / bits", (one["anonymous"] + one["file"]) / room, 1.05, note),
            at_most(f"{name}: load peak / bits", one["peak"] / room, 1.2),
        ]
    return found


def _print(figures: list[dict[str, Any]]) -> None:
    columns = {"bits": "budget", "session": "frame", "anonymous": "anonymous", "files": "file", "peak": "peak"}
    table = Table("KiB", "what", *columns)
    for one in figures:
        table.add_row(one["layer"], one["what"], *(f"{one[key] / 1024:.0f}" for key in columns.values()))
    Console().print(table)


if __name__ == "__main__":
    run(lambda: typer.run(main))
