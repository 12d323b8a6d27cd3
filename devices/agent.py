"""The program that runs on a device: `python3 -m devices.agent job.json answer.json`, beside bundle and runtimes.

Standard library, numpy and the runtime only. It prints a JSON object a line on stdout: {"what": "images", "done",
"total", "predictions"} as work goes on, or {"error", "hint", "exit_code"} when it has to give up.
"""

import contextlib
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import runtimes
from devices.conditions import Conditions, look
from devices.golden import Golden, compare
from devices.protocol import Protocol, sample, warm_up
from msq.checksums import verify_files
from msq.errors import BundleError, MsqError, UsageError
from msq.preprocessing import normalise

MANIFEST_FILE = "manifest.json"
"""As in msq.bundle, whose schema needs more than a board has."""
PROVIDERS = "execution providers"
"""Among the libraries of a Place, where the runtime has a choice of processors."""
SETTLING_RUNS = 10
"""Inferences after which memory is looked at."""


@dataclass(frozen=True)
class Job:
    """What to do. Paths are relative to the folder in which the agent runs."""

    bundle: str
    runtime: str
    threads: int
    task: str
    """place, golden, latency, memory or classify."""
    images: str = ""
    """.npy, uint8 (n, height, width, channels), before preprocessing; n may be 0. Unused by place and golden."""
    batch: int = 1
    """Of images that are classified at once."""
    protocol: Protocol | None = None
    """Of latency."""


@dataclass(frozen=True)
class Place:
    """Where a job was done, and by what."""

    machine: str
    python: str | None
    """None where the agent is not a Python program."""
    kernel: str
    runtime_version: str
    libraries: dict[str, str]

    @property
    def cpu(self) -> bool:
        """Whether a CPU computed everything, as the exporting host's did."""
        return self.libraries.get(PROVIDERS, "CPUExecutionProvider") == "CPUExecutionProvider"


@dataclass(frozen=True)
class Latency:
    """Seconds of every timed inference of one image, in order, and the conditions before and after them."""

    seconds: list[float]
    before: Conditions
    after: Conditions


@dataclass(frozen=True)
class Memory:
    """Of a process that loads the model and runs it on one image, in bytes; None where the kernel does not tell."""

    first_seconds: float
    """From the start of the process to the first answer, the check of the bundle's files included."""
    load_peak: int | None
    run_peak: int | None
    """The highest level once the model was loaded."""
    anonymous: int | None
    """The process's own pages, after some runs."""
    file_mapped: int | None
    """Pages of files then: the system can drop and read them again."""


@dataclass(frozen=True)
class Answer:
    """What was found: the field of the job's task is set, beside the place."""

    place: Place
    golden: Golden | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    predictions: list[int] | None = None


def main(job_file: str, answer_file: str) -> int:
    """Do the job and write the answer; return the exit code."""
    try:
        values = json.loads(Path(job_file).read_text(encoding="utf-8"))
        protocol = values.pop("protocol")
        answer = run(Job(**values, protocol=Protocol(**protocol) if protocol else None))
    except MsqError as error:
        _say(error=str(error), hint=error.hint, exit_code=error.exit_code)
        return error.exit_code
    Path(answer_file).write_text(json.dumps(asdict(answer)), encoding="utf-8")
    return 0


def run(job: Job) -> Answer:
    """Verify the bundle, do the job and return what was found.

    Raises:
        BundleError: a file of the bundle is missing or altered, or the runtime refuses the model.
        DeviceError: the runtime is not installed here. UsageError: no such task.
    """
    bundle = Path(job.bundle)
    spec = _manifest(bundle)["input"]
    adapter = runtimes.adapter(job.runtime)
    version = adapter.version()
    session = adapter.load(bundle, job.threads)
    load_peak = _mark_memory()
    providers = {PROVIDERS: ", ".join(session.providers())} if isinstance(session, runtimes.Placed) else {}
    place = Place(
        machine=platform.machine(),
        python=platform.python_version(),
        kernel=platform.release(),
        runtime_version=version,
        libraries={"numpy": np.__version__, job.runtime: version, **adapter.libraries(), **providers},
    )
    if job.task == "place":
        return Answer(place)
    if job.task == "golden":
        return Answer(place, golden=compare(session.tensors, bundle))
    images = np.load(job.images, mmap_mode="r")

    def ready(first: int, last: int) -> NDArray[np.float32]:
        return normalise(np.asarray(images[first:last]), spec["mean"], spec["std"])

    if job.task == "memory":
        return Answer(place, memory=_memory(session, ready(0, 1), load_peak))
    if job.task == "latency" and job.protocol:
        return Answer(place, latency=_latency(session, ready(0, 1), job.protocol))
    if job.task != "classify":
        raise UsageError(f"unknown task {job.task!r}")
    predictions: list[int] = []
    for first in range(0, len(images), job.batch):
        output = session.run(ready(first, first + job.batch))
        found = output.reshape(len(output), -1).argmax(axis=1).tolist()
        predictions += found
        _say(what="images", done=len(predictions), total=len(images), predictions=found)
    return Answer(place, predictions=predictions)


def _manifest(bundle: Path) -> dict[str, Any]:
    path = bundle / MANIFEST_FILE
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = manifest["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise BundleError(f"{path}: missing or not a manifest", hint="export the model again") from None
    verify_files(bundle, files)
    return manifest


def _latency(session: runtimes.Session, image: NDArray[np.float32], protocol: Protocol) -> Latency:
    def infer() -> None:
        session.run(image)

    warm_up(infer, protocol)
    before = look()
    return Latency(sample(infer, protocol), before, look())


def _memory(session: runtimes.Session, image: NDArray[np.float32], load_peak: int | None) -> Memory:
    session.run(image)
    first_seconds = _age()
    for _ in range(SETTLING_RUNS):
        session.run(image)
    return Memory(first_seconds, load_peak, _held("VmHWM"), _held("RssAnon"), _held("RssFile"))


def _age() -> float:
    """Return the seconds since this process was started, by the kernel's clock of starts: to a hundredth or so."""
    # The name, in brackets, may hold spaces; the start is the 22nd field in all.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _held(name: str) -> int | None:
    """Return a figure of /proc/self/status in bytes; None where the kernel does not tell it.

    Not getrusage: its peak outlives exec, so a child of a big process would report its parent's.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
    return int(lines[name].split()[0]) * 1024 if name in lines else None


def _mark_memory() -> int | None:
    """Return the highest level of memory so far, and let it begin anew where the kernel does that."""
    peak = _held("VmHWM")
    with contextlib.suppress(OSError):  # the later level is then no lower than this one
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak


def _say(**message: object) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
