"""Instructions that a layer takes on arm64, beside ONNX Runtime's and LiteRT's int8: make bench-counts.

An emulated board runs the layers and counts the instructions it executes: which is true of the processor, as a time
on an emulator is not. Each layer is run once and twice in a row, in a model of its own; the difference is the layer
alone, without the frame of Python, runtime, quantization and dequantization, of every runtime alike. Of a few runs the
least counts: they differ by some hundred instructions. Of a few processes the median does: seldom, and for no
reason found yet, all runs of a model in one are off by some percent.

The rivals are at their best: ONNX Runtime with int8 or with uint8 activations, whichever is less, LiteRT with XNNPACK,
and of both the better one. One thread everywhere. Linear layers are shown only: their time is that of reading weights.
"""

import math
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import litert
from benchmarks.layers import Layer
from benchmarks.ort import int8_model, packed_model
from benchmarks.result import Bar, at_most, finish
from devices import wheels
from devices.counter import Counter, counts
from devices.profile import profile
from msq.cli import run
from msq.errors import DeviceError
from runtimes._kernels import KERNELS

PROCESSORS = {"cortex-a72": "raspberrypi4", "cortex-a76": "raspberrypi5"}
"""Without and with dot product instructions, and a device that has each."""
CONVOLUTIONS = [Layer(64, 16), Layer(128, 8), Layer(256, 14, 1)]
DEPTHWISE = [Layer(96, 28, depthwise=True)]
LINEAR = [Layer(1024)]
LAYERS = [*CONVOLUTIONS, *DEPTHWISE, *LINEAR]
RIVALS = ("ORT s8", "ORT u8", "LiteRT")
BAR = 1.10
TIMEOUT = 600.0

Figure = dict[str, Any]


def main(
    runs: int = 3,
    processes: int = 3,
    widths: Annotated[str, typer.Option(help="comma-separated")] = "1,2,3,4,5,6,7",
    out: Path = Path("build/bench"),
) -> None:
    """Count every layer at every width beside its rivals on every processor, and judge the bars."""
    bits = [int(width) for width in widths.split(",")]
    packages = wheels.pinned(["onnxruntime", "ai-edge-litert"])
    settings: dict[str, Any] = {
        "runs": runs,
        "processes": processes,
        "widths": bits,
        "packages": packages,
        "threads": 1,
    }
    figures: list[Figure] = []
    for processor, device in track(PROCESSORS.items(), "processors", console=Console(stderr=True)):
        with closing(Counter()) as board:
            board.prepare(profile(device), packages)
            library = KERNELS / "aarch64" / "libmsq_kernels.so"
            board.put([Path(__file__).with_name("counted.py"), library], PurePosixPath())
            figures += [{"processor": processor, **figure} for figure in counted(board, bits, runs, processes)]
            settings[processor] = board.emulator
    _print(figures)
    raise SystemExit(finish("counts", settings, figures, bars(figures, bits), out))


def counted(board: Counter, widths: list[int], runs: int, processes: int) -> list[Figure]:
    """Return instructions, and vector multiplications among them, of each layer by each runtime on a board."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        models = [model for layer in LAYERS for model in written(layer, widths, Path(name))]
        for path in (path for path in Path(name).rglob("*") if path.is_file()):
            board.put([path], PurePosixPath(path.parent.relative_to(name)))
        for runtime in ("onnxruntime", "litert"):
            found = [model for model in models if model.runtime == runtime]
            tasks = [f"{path.relative_to(name)}:{model.shape}" for model in found for path in model.paths]
            each = [least(board, runs, runtime, tasks) for _ in range(processes)]
            typical = [statistics.median_low(one) for one in zip(*each, strict=True)]
            for model, once, twice in zip(found, typical[::2], typical[1::2], strict=True):
                instructions, products = twice[0] - once[0], twice[1] - once[1]
                figures.append(
                    {
                        "layer": model.layer.name,
                        "what": model.what,
                        "instructions": instructions,
                        "per_mac": round(instructions / macs(model.layer), 5),
                        "products": products,
                    }
                )
    return figures


def least(board: Counter, runs: int, runtime: str, tasks: list[str]) -> list[tuple[int, int]]:
    """Return the counts of each task's least run, in one process on the board."""
    done = board.run(["python3", "counted.py", str(runs), runtime, *tasks], TIMEOUT)
    if done.returncode:
        raise DeviceError(f"{runtime} on the board: {(done.stderr.splitlines() or ['it failed'])[-1]}")
    # Every task makes runs + 1 marks; what is between one's last and the next one's first is left out.
    between = counts(done.stderr)
    return [min(between[at : at + runs]) for at in range(0, len(between), runs + 1)]


@dataclass(frozen=True)
class Model:
    """A layer's files for a runtime: once, and twice in a row."""

    layer: Layer
    what: str
    runtime: str
    paths: list[Path]

    @property
    def shape(self) -> str:
        """Of the input, as counted.py takes it."""
        return "x".join(str(size) for size in self.layer.shape)


def written(layer: Layer, widths: list[int], folder: Path) -> Iterator[Model]:
    """Write a layer for every runtime, packed at each width and as the rivals have it."""
    repeated = [replace(layer, repeated=times) for times in (1, 2)]

    def files(models: Iterable[bytes], what: str) -> list[Path]:
        paths = [folder / f"{layer.name} {what} {times}" for times in (1, 2)]
        for path, model in zip(paths, models, strict=True):
            path.write_bytes(model)
        return paths

    for what, zero in (("ORT s8", np.int8(0)), ("ORT u8", np.uint8(128))):
        yield Model(layer, what, "onnxruntime", files((int8_model(one, zero) for one in repeated), what))
    for width in widths:
        folders = [folder / f"{layer.name} {width} {times}" for times in (1, 2)]
        paths = [packed_model(one, width, made) for one, made in zip(repeated, folders, strict=True)]
        yield Model(layer, f"packed {width}", "onnxruntime", paths)
    for width in (8,) if layer.size else (8, 4, 2):
        what = "LiteRT" if width == 8 else f"LiteRT {width}"
        yield Model(layer, what, "litert", files((litert.model(one, width) for one in repeated), what))


def macs(layer: Layer) -> int:
    """Return the multiplications of a layer, those with padding included."""
    return math.prod(layer.weights) * (layer.size**2 or 1)


def per_mac(figures: list[Figure], processor: str, layer: Layer) -> dict[str, float]:
    """Return the instructions of a multiplication of a layer, by what runs it."""
    place = (processor, layer.name)
    return {one["what"]: one["per_mac"] for one in figures if (one["processor"], one["layer"]) == place}


def bars(figures: list[Figure], widths: list[int]) -> list[Bar]:
    """Return what the kernels must reach on each processor: the worst layer of each kind and width."""
    found = []
    for processor in PROCESSORS:
        for kind, layers in (("convolutions", CONVOLUTIONS), ("depthwise", DEPTHWISE)):
            counted = {layer.name: per_mac(figures, processor, layer) for layer in layers}
            for width in widths:
                ratios = {
                    name: by[f"packed {width}"] / min(by[rival] for rival in RIVALS) for name, by in counted.items()
                }
                worst = max(ratios, key=lambda name: ratios[name])
                what = f"{processor}: {kind}, {width} bits: instructions / the better rival's, worst"
                found.append(at_most(what, ratios[worst], BAR, worst))
    return found


def _print(figures: list[Figure]) -> None:
    for processor in PROCESSORS:
        names = list(dict.fromkeys(one["what"] for one in figures))
        table = Table(f"{processor}: instructions / MAC", *names)
        for layer in LAYERS:
            found = per_mac(figures, processor, layer)
            table.add_row(layer.name, *(f"{found[name]:.3f}" if name in found else "" for name in names))
        Console().print(table)


if __name__ == "__main__":
    run(lambda: typer.run(main))
