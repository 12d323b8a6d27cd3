"""make fuzz: libFuzzer invents inputs for all that reads a bundle, under AddressSanitizer and UBSan.

A target stops at its first finding, which is kept; what it learnt is kept too, and the next run goes on from there.
"""

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from msq.cli import run
from msq.errors import DeviceError
from tests.fuzz.seeds import seeds
from tests.fuzz.toolchain import toolchain

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "runtimes" / "corpus"
"""Inputs that every test run replays, in a folder for each target."""
SHARES = {"model": 0.55, "layer": 0.25, "json": 0.07, "flexbuffer": 0.07, "npy": 0.03, "manifest": 0.03}
"""The targets, and the part of the time that each gets."""
LONGEST_INPUT = 20000
LONGEST_RUN = 20
"""Bytes; seconds, beyond which an input counts as a hang."""

_messages = Console(stderr=True)


@dataclass(frozen=True)
class Figures:
    """What came of a target: CPU seconds, executions, edges met, inputs kept, and files that show a fault."""

    seconds: float
    executions: int
    edges: int
    kept: int
    findings: Sequence[Path]


def main(
    seconds: Annotated[int, typer.Option(min=1, help="of all targets together")] = 600,
    jobs: Annotated[int, typer.Option(min=1, help="processes of a target")] = 1,
    coverage: Annotated[bool, typer.Option(help="show which lines of the C code the inputs reach")] = False,
    out: Path = ROOT / "build" / "fuzz",
) -> None:
    """Fuzz every target for its share of the time, and show what came of it; exit with 1 where there are findings."""
    tools = toolchain()
    programs = build(tools, out / "program")
    for target, name, content in seeds():
        path = out / "seeds" / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    figures = {}
    for target, share in SHARES.items():
        limit = max(1, round(share * seconds))
        with _messages.status(f"{target}: {limit} s …"):
            figures[target] = fuzz(programs / f"fuzz-{target}", target, limit, jobs, tools, out)
    _print(figures)
    if coverage:
        _print_coverage(tools, out)
    raise SystemExit(any(of.findings for of in figures.values()))


def build(tools: Path, folder: Path, *options: str) -> Path:
    """Compile the targets with their sanitizers, and return the folder that they lie in. Raises DeviceError."""
    cmake, ninja = (Path(sys.executable).with_name(tool) for tool in ("cmake", "ninja"))
    configure = [cmake, "-S", ROOT / "runtimes" / "kernels", "-B", folder, "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DCMAKE_C_COMPILER={tools / 'bin' / 'clang'}"]
    configure += ["-DMSQ_SANITIZE=ON", "-DMSQ_FUZZ=ON", *options]
    targets = [f"fuzz-{target}" for target in SHARES]
    with _messages.status("building …"):
        for command in (configure, [cmake, "--build", folder, "--target", *targets]):
            _said(command)
    return folder


def fuzz(program: Path, target: str, seconds: int, jobs: int, tools: Path, out: Path) -> Figures:
    """Run a target in some processes, which share what they learn, until time is over or each has found a fault.

    Raises:
        DeviceError: a process ended before, and left no input that shows why.
    """
    found, logs = out / "findings", out / "logs"
    learnt, seeded, kept = _inputs(target, out)
    for folder in (found, logs, learnt, seeded):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(found.glob(f"{target}-*"))
    options = {
        "max_total_time": seconds,
        "timeout": LONGEST_RUN,
        "report_slow_units": LONGEST_RUN,
        "max_len": LONGEST_INPUT,
        "dict": Path(__file__).with_name("words.dict"),
        "artifact_prefix": f"{found}/{target}-",
        "print_final_stats": 1,
    }
    command = [program, *(f"-{name}={value}" for name, value in options.items()), learnt, seeded, kept]
    used = _cpu_seconds()
    streams = [(logs / f"{target}-{job}.log").open("w", encoding="utf-8") for job in range(jobs)]
    running = [subprocess.Popen(command, env=_environment(tools), stderr=stream) for stream in streams]
    for process, stream in zip(running, streams, strict=True):
        process.wait()
        stream.close()
    findings = sorted(set(found.glob(f"{target}-*")) - before)
    if any(process.returncode for process in running) and not findings:
        raise DeviceError(f"fuzz-{target} ended before its time", hint=f"{logs} has what it said")
    texts = [Path(stream.name).read_text(encoding="utf-8", errors="replace") for stream in streams]
    return Figures(
        seconds=_cpu_seconds() - used,
        executions=sum(_last(r"^stat::number_of_executed_units: +(\d+)", text) for text in texts),
        edges=max(_last(r"^#\d+.* cov: (\d+)", text) for text in texts),
        kept=len(list(learnt.iterdir())),
        findings=findings,
    )


def _inputs(target: str, out: Path) -> tuple[Path, Path, Path]:
    """Return the folders that a target begins with; it writes to the first."""
    return out / "corpus" / target, out / "seeds" / target, CORPUS / target


def _environment(tools: Path) -> dict[str, str]:
    return os.environ | {
        "ASAN_SYMBOLIZER_PATH": str(tools / "bin" / "llvm-symbolizer"),
        # What a model asks for beyond this is refused, as a small board would.
        "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=512",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last(pattern: str, text: str) -> int:
    return int((re.findall(pattern, text, re.MULTILINE) or ["0"])[-1])


def _print(figures: dict[str, Figures]) -> None:
    table = Table("target", "CPU s", "executions", "edges", "inputs kept", "findings")
    for target, of in figures.items():
        row = (f"{of.seconds:.0f}", of.executions, of.edges, of.kept, len(of.findings))
        table.add_row(target, *(str(value) for value in row))
    console = Console()
    console.print(table)
    for finding in (path for of in figures.values() for path in of.findings):
        console.print(finding, soft_wrap=True)


def _print_coverage(tools: Path, out: Path) -> None:
    """Run all inputs once in programs that count lines, and print how many of each file were reached."""
    flags = "-fprofile-instr-generate -fcoverage-mapping"
    programs = build(tools, out / "coverage", f"-DCMAKE_C_FLAGS={flags}")
    profiles = out / "profiles"
    shutil.rmtree(profiles, ignore_errors=True)
    for target in SHARES:
        environment = _environment(tools) | {"LLVM_PROFILE_FILE": str(profiles / f"{target}.profraw")}
        _said([programs / f"fuzz-{target}", "-runs=0", *_inputs(target, out)], environment)
    merged = profiles / "all.profdata"
    _said([tools / "bin/llvm-profdata", "merge", *profiles.glob("*.profraw"), "-o", merged])
    first, *others = (programs / f"fuzz-{target}" for target in SHARES)
    command = [tools / "bin/llvm-cov", "report", first, *(f"-object={other}" for other in others)]
    command += [f"-instr-profile={merged}", "-show-region-summary=false", "-sources", ROOT / "runtimes"]
    Console().print(_said(command), soft_wrap=True)


def _said(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise DeviceError(f"{Path(command[0]).name} failed: {said[-1]}")
    return done.stdout


if __name__ == "__main__":
    run(lambda: typer.run(main))
