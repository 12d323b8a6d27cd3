"""The tiers for processors without AVX-512 beside ONNX Runtime's int8 on such a processor: make bench-avx2.

ONNX Runtime asks the processor what it has. So the rival is a copy of its installed package in which the questions are
answered by no: `xor %ecx, %ecx; xgetbv` (31 c9 0f 01 d0) reads `xor %ecx, %ecx; mov $7, %al; nop` (31 c9 b0 07 90), as
if the system saved the registers of AVX alone, and for AVX-VNNI, `cpuid; test $0x10, %al` (0f a2 a8 10) tests no bit
(0f a2 a8 00). The benchmark runs itself anew on each copy, and our kernels on the tier that has the same instructions.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import onnxruntime
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.kernels import interleaved, ratios
from benchmarks.layers import CONVOLUTIONS
from benchmarks.ort import int8, packed
from benchmarks.result import at_most, finish
from msq.cli import run
from msq.errors import DeviceError
from runtimes._kernels import kernels

NO_AVX512 = (b"\x31\xc9\x0f\x01\xd0", b"\x31\xc9\xb0\x07\x90")
NO_AVXVNNI = (b"\x0f\xa2\xa8\x10", b"\x0f\xa2\xa8\x00")
RIVALS = {"avxvnni": (NO_AVX512,), "avx2": (NO_AVX512, NO_AVXVNNI)}
"""Tier: what is replaced in ONNX Runtime by what."""


def main(
    rounds: int = 100,
    widths: Annotated[str, typer.Option(help="comma-separated")] = "1,2,3,4,5,6,7",
    out: Path = Path("build/bench"),
    here: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Time every convolution at every width, and judge the bars."""
    if not here:
        raise SystemExit(max(_run_on_copy(tier) for tier in RIVALS))
    bits = [int(width) for width in widths.split(",")]
    kernels().use_threads(1)
    figures: list[dict[str, Any]] = []
    for layer in track(CONVOLUTIONS, "layers", console=Console(stderr=True)):
        sessions = {"int8": int8(layer)} | {f"packed {width}": packed(layer, width) for width in bits}
        for name, times in interleaved(sessions, layer.shape, rounds).items():
            figures.append({"layer": layer.name, "what": name, "microseconds": [round(1e6 * t, 1) for t in times]})
    bars = [
        at_most(
            f"convolutions, {width} bits, {here}: time / int8, worst",
            max(ratios(figures, CONVOLUTIONS, f"packed {width}", "int8")),
            1.15,
        )
        for width in bits
    ]
    settings = {"rounds": rounds, "widths": bits, "tier": kernels().tier(), "threads": 1}
    raise SystemExit(finish(here, settings, figures, bars, out, target="avx2"))


def _run_on_copy(tier: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy_without(Path(folder), RIVALS[tier])
        environment = os.environ | {"PYTHONPATH": folder, "MSQ_KERNELS_TIER": tier}
        command = [sys.executable, "-m", "benchmarks.avx2", *sys.argv[1:], "--here", tier]
        return subprocess.run(command, env=environment, check=False).returncode


def copy_without(folder: Path, replaced: tuple[tuple[bytes, bytes], ...]) -> None:
    """Put a copy of ONNX Runtime, with some of its instructions replaced, into a folder of packages.

    Raises:
        DeviceError: what is to be replaced is not there: this release asks otherwise.
    """
    package = Path(onnxruntime.__file__).parent
    shutil.copytree(package, folder / package.name)
    (library,) = (folder / package.name / "capi").glob("onnxruntime_pybind11_state*.so")
    code = library.read_bytes()
    for asked, answered in replaced:
        if asked not in code:
            raise DeviceError(f"{library.name}: no {asked.hex(' ')} in it", hint="see how this release asks")
        code = code.replace(asked, answered)
    library.write_bytes(code)


if __name__ == "__main__":
    run(lambda: typer.run(main))
