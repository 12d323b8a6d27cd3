"""Packed kernels beside ONNX Runtime's and LiteRT's own, layer by layer: make bench-kernels.

Each layer is a small model, float32 in and out, run on one thread; the packed ones by ONNX Runtime. The rivals take
turns in one process, run by run, so that whatever slows the machine slows all of them; the 10th percentile of each
counts. The largest convolutions are run once more, on one thread and on two.
"""

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import litert
from benchmarks.layers import CONVOLUTIONS, DEPTHWISE, LARGE, LINEAR, Layer
from benchmarks.ort import Session, float32, int8, matmul_nbits, packed
from benchmarks.result import Bar, at_least, at_most, finish
from msq.cli import run
from runtimes._kernels import kernels

WARM_UP = 5
FASTER = {2: 3.3, 3: 2.4, 4: 1.8, 6: 1.2}
"""What a linear layer of a width must be, as a multiple of ONNX Runtime's int8 speed."""


def main(
    rounds: int = 100,
    widths: Annotated[str, typer.Option(help="comma-separated")] = "1,2,3,4,5,6,7",
    out: Path = Path("build/bench"),
) -> None:
    """Time every layer at every width beside its rivals, and judge the bars."""
    bits = [int(width) for width in widths.split(",")]
    kernels().use_threads(1)
    figures: list[dict[str, Any]] = []
    for layer in track([*CONVOLUTIONS, *DEPTHWISE, *LINEAR], "layers", console=Console(stderr=True)):
        rivals: dict[str, Session] = {"int8": int8(layer), "float32": float32(layer), "LiteRT": litert.session(layer)}
        if not layer.size:
            rivals |= {f"MatMulNBits {width}": matmul_nbits(layer, width) for width in (2, 4)}
            rivals |= {f"LiteRT {width}": litert.session(layer, width) for width in (2, 4)}
        ours = {f"packed {width}": packed(layer, width) for width in bits}
        for name, times in interleaved(rivals | ours, layer.shape, rounds).items():
            figures.append({"layer": layer.name, "what": name, "microseconds": [round(1e6 * t, 1) for t in times]})
    for layer in LARGE:
        ours = {f"{count} threads": _Threaded(layer, count) for count in (1, 2)}
        for name, times in interleaved(ours, layer.shape, rounds).items():
            figures.append({"layer": layer.name, "what": name, "microseconds": [round(1e6 * t, 1) for t in times]})
    _print(figures)
    settings = {"rounds": rounds, "widths": bits, "tier": kernels().tier()}
    raise SystemExit(finish("kernels", settings, figures, bars(figures, bits), out))


def interleaved(sessions: dict[str, Session], shape: tuple[int, ...], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every run, without the first few; every round takes the sessions in an order of its own."""
    random = np.random.default_rng(0)
    x = random.normal(size=(1, *shape)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for index in range(rounds + WARM_UP):
        # What ran before leaves the caches to the next one: no session always follows the same.
        for name in random.permutation(list(sessions)):
            began = time.perf_counter()
            sessions[name].run(None, {"x": x})
            if index >= WARM_UP:
                times[name].append(time.perf_counter() - began)
    return times


class _Threaded:
    """The layer at 4 bits on so many threads."""

    def __init__(self, layer: Layer, threads: int) -> None:
        self._session, self._threads = packed(layer, 4, threads), threads

    def run(self, names: None, inputs: dict[str, Any]) -> Any:
        kernels().use_threads(self._threads)
        return self._session.run(names, inputs)


def percentile(figures: list[dict[str, Any]], layer: Layer, what: str) -> float | None:
    """Return the 10th percentile of a rival's microseconds on a layer."""
    found = [one["microseconds"] for one in figures if (one["layer"], one["what"]) == (layer.name, what)]
    return float(np.percentile(found[0], 10)) if found else None


def ratios(figures: list[dict[str, Any]], layers: list[Layer], what: str, rival: str) -> list[float]:
    """Return what's time over the rival's, layer by layer."""
    pairs = [(percentile(figures, layer, what), percentile(figures, layer, rival)) for layer in layers]
    return [ours / theirs for ours, theirs in pairs if ours is not None and theirs is not None]


def bars(figures: list[dict[str, Any]], widths: list[int]) -> list[Bar]:
    """Return what the kernels must reach: the worst layer of each kind and width."""
    found = []
    for width in widths:
        ours = f"packed {width}"
        over_int8 = ratios(figures, CONVOLUTIONS, ours, "int8")
        spread = f"median {statistics.median(over_int8):.3f}"
        found += [
            at_most(f"convolutions, {width} bits: time / int8, worst", max(over_int8), 1.05, spread),
            at_least(
                f"convolutions, {width} bits: speed / float32, worst",
                min(1 / ratio for ratio in ratios(figures, CONVOLUTIONS, ours, "float32")),
                2.4,
            ),
            at_most(
                f"convolutions, {width} bits: time / LiteRT int8, worst",
                max(ratios(figures, CONVOLUTIONS, ours, "LiteRT")),
                0.90,
            ),
            at_most(
                f"depthwise, {width} bits: time / int8, worst", max(ratios(figures, DEPTHWISE, ours, "int8")), 1.05
            ),
        ]
        if width in FASTER:
            speeds = [1 / ratio for ratio in ratios(figures, LINEAR, ours, "int8")]
            found.append(at_least(f"linear, {width} bits: speed / int8, worst", min(speeds), FASTER[width]))
        if width in (2, 4):
            for rival in ("MatMulNBits", "LiteRT"):
                speeds = [1 / ratio for ratio in ratios(figures, LINEAR, ours, f"{rival} {width}")]
                found.append(at_least(f"linear, {width} bits: speed / {rival} {width}, worst", min(speeds), 1.0))
    speeds = [1 / ratio for ratio in ratios(figures, LARGE, "2 threads", "1 threads")]
    found.append(at_least("large convolutions: speed of two threads / one's, worst", min(speeds), 1.7))
    return found


def _print(figures: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(one["what"] for one in figures))
    table = Table("µs, 10th percentile", *names)
    for layer in [*CONVOLUTIONS, *DEPTHWISE, *LINEAR]:
        found = [percentile(figures, layer, name) for name in names]
        table.add_row(layer.name, *("" if value is None else f"{value:.0f}" for value in found))
    Console().print(table)


if __name__ == "__main__":
    run(lambda: typer.run(main))
