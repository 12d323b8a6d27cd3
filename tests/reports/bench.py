"""make bench-report: how long the page of a measurement among 200 runs of 60 layers takes to be made and to open."""

import random
import tempfile
import time
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import track

from benchmarks.result import at_most, finish
from msq.bundle import Layer
from msq.checkpoint import Accuracy
from msq.cli import run
from msq.measurement import Device, Environment, Measurement, TensorParity
from msq.packing import packed_size
from msq.provenance import Figure, Kind
from reports.report import Outputs, report
from reports.store import Store
from tests.reports.chromium import browser
from tests.reports.measurements import manifest, predictions

SAMPLES, IMAGES = 200, 3000
ROUNDS = 3


def main(runs: int = 200, layers: int = 60, out: Path = Path("build/bench")) -> None:
    """Fill a store, make the page and open it, several times; the best of each counts, as for any time of a process."""
    with tempfile.TemporaryDirectory() as name:
        folder, made, opened = Path(name), [], []
        measurements = [measurement(number, layers) for number in range(runs)]
        with Store(folder / "store.db") as store:
            store.add(*measurements)
        measurements[0].write(folder / "measurement.json")
        page = folder / "page.html"
        with browser() as started:
            for _ in track(range(ROUNDS), "rounds", console=Console(stderr=True)):
                start = time.perf_counter()
                report(folder / "measurement.json", Outputs(page=page), store=folder / "store.db")
                made.append(time.perf_counter() - start)
                view = started.new_page()
                view.goto(page.as_uri())
                opened.append(view.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
                view.close()
        size = page.stat().st_size
    bars = [
        at_most("seconds to make the page", min(made), 10),
        at_most("seconds to open it", min(opened), 2),
        at_most("MB of the page", size / 1e6, 2),
    ]
    settings = {"runs": runs, "layers": layers, "rounds": ROUNDS}
    raise typer.Exit(finish("report", settings, [{"made": made, "opened": opened, "bytes": size}], bars, out))


def measurement(number: int, layers: int) -> Measurement:
    """Return one of many runs on the same data: other widths, another accuracy, another latency."""
    draw = random.Random(number)
    stored = tuple(
        Layer(
            name=f"stages.{index // 8}.{index % 8}.conv",
            op="conv2d",
            shape=(64, 64, 3, 3),
            weights=36_864,
            bits=(bits := draw.randint(1, 8)),
            paper_bits=bits - 1,
            packed_bytes=packed_size(64, 576, bits),
        )
        for index in range(layers)
    )
    samples = tuple(draw.gauss(5e-4 + 1e-6 * number, 1e-5) for _ in range(SAMPLES))
    base = manifest()
    model_bytes = sum(layer.packed_bytes for layer in stored)
    return Measurement(
        manifest=base.model_copy(
            update={
                "layers": stored,
                "average_bits": sum(layer.bits for layer in stored) / layers,
                "sizes": base.sizes.model_copy(update={"model_bytes": model_bytes, "limit_bytes": 2 * model_bytes}),
                "accuracy": (Accuracy(what="deployed", correct=draw.randint(8000, 9500), n=10_000),),
                "history": (),
            }
        ),
        manifest_sha256=f"{number:064x}",
        runtime=draw.choice(["native", "onnxruntime", "litert"]),
        runtime_version="1",
        runtime_mode="native",
        device=Device(
            name=f"board{draw.randrange(4)}",
            title="A board",
            transport="ssh",
            engine="board",
            cpu="cortex-a72",
            facts={},
        ),
        environment=Environment(machine="aarch64", python=None, kernel="6.1", emulator=None, threads=1, libraries={}),
        parity=TensorParity(
            tensors=layers, values=100_000, equal_to_host=True, equal_to_oracle=True, max_lsb_to_oracle=0
        ),
        figures={
            f"latency_p{percent}": Figure(
                value=sorted(samples)[percent * SAMPLES // 100], unit="seconds", kind=Kind.MEASURED_BOARD, n=SAMPLES
            )
            for percent in (50, 90)
        },
        predictions=predictions(IMAGES),
        protocol="quick",
        latency_seconds=samples,
        created=f"2026-01-{1 + number % 28:02d}T10:{number // 28:02d}:00+00:00",
        command="msq measure …",
    )


if __name__ == "__main__":
    run(lambda: typer.run(main))
