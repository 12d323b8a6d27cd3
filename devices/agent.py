"""The program that runs on a device: `python3 -m devices.agent job.json answer.json`, beside bundle and runtimes.

Standard library, numpy and the runtime only. It prints a JSON object a line on stdout: {"what", "done", "total"}
as work goes on, or {"error", "hint", "exit_code"} when it has to give up.
"""

import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import runtimes
from devices.golden import Golden, compare
from msq.checksums import verify_files
from msq.errors import BundleError, MsqError
from msq.preprocessing import normalise

MANIFEST_FILE = "manifest.json"
"""As in msq.bundle, whose schema needs more than a board has."""

WARM_UP = 10
"""Inferences before the timed ones."""


@dataclass(frozen=True)
class Job:
    """What to do. Paths are relative to the folder in which the agent runs."""

    bundle: str
    runtime: str
    threads: int
    images: str
    """.npy, uint8 (n, height, width, channels), before preprocessing; n may be 0."""
    batch: int
    golden: bool
    """Compare with the golden vectors."""
    latency_samples: int
    """Timed inferences of one image; 0 where time and memory mean nothing, and then neither is looked at."""


@dataclass(frozen=True)
class Answer:
    """What was found, and where."""

    machine: str
    python: str | None
    """None where the agent is not a Python program."""
    kernel: str
    runtime_version: str
    libraries: dict[str, str]
    golden: Golden | None
    predictions: list[int]
    latency_seconds: list[float]
    peak_memory_bytes: int | None


def main(job_file: str, answer_file: str) -> int:
    """Do the job and write the answer; return the exit code."""
    try:
        job = Job(**json.loads(Path(job_file).read_text(encoding="utf-8")))
        answer = run(job)
    except MsqError as error:
        _say(error=str(error), hint=error.hint, exit_code=error.exit_code)
        return error.exit_code
    Path(answer_file).write_text(json.dumps(asdict(answer)), encoding="utf-8")
    return 0


def run(job: Job) -> Answer:
    """Verify the bundle, run it as the job says, and return what was found.

    Raises:
        BundleError: a file of the bundle is missing or altered, or the runtime refuses the model.
        DeviceError: the runtime is not installed here.
    """
    bundle = Path(job.bundle)
    manifest = _manifest(bundle)
    adapter = runtimes.adapter(job.runtime)
    version = adapter.version()
    session = adapter.load(bundle, job.threads)
    spec = manifest["input"]
    images = np.load(job.images, mmap_mode="r")

    def ready(first: int, last: int) -> NDArray[np.float32]:
        return normalise(np.asarray(images[first:last]), spec["mean"], spec["std"])

    # Timed first: the peak of memory is then that of a process that runs the model and does nothing else.
    latency = _latency(session, ready(0, 1), job.latency_samples) if job.latency_samples and len(images) else []
    memory = _peak_memory() if latency else None
    golden = None
    if job.golden:
        _say(what="golden", done=0, total=1)
        golden = compare(session.tensors, bundle)
        _say(what="golden", done=1, total=1)
    predictions: list[int] = []
    for first in range(0, len(images), job.batch):
        output = session.run(ready(first, first + job.batch))
        predictions += output.reshape(len(output), -1).argmax(axis=1).tolist()
        _say(what="images", done=len(predictions), total=len(images))
    return Answer(
        machine=platform.machine(),
        python=platform.python_version(),
        kernel=platform.release(),
        runtime_version=version,
        libraries={"numpy": np.__version__, job.runtime: version, **adapter.libraries()},
        golden=golden,
        predictions=predictions,
        latency_seconds=latency,
        peak_memory_bytes=memory,
    )


def _manifest(bundle: Path) -> dict[str, Any]:
    path = bundle / MANIFEST_FILE
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = manifest["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise BundleError(f"{path}: missing or not a manifest", hint="export the model again") from None
    verify_files(bundle, files)
    return manifest


def _latency(session: runtimes.Session, image: NDArray[np.float32], samples: int) -> list[float]:
    """Return the seconds that each of `samples` inferences of one image took, in order."""
    for _ in range(WARM_UP):
        session.run(image)
    seconds = []
    for _ in range(samples):
        start = time.perf_counter()
        session.run(image)
        seconds.append(time.perf_counter() - start)
    return seconds


def _peak_memory() -> int | None:
    """Return the most memory that this process held, in bytes; None where the kernel does not tell.

    Not getrusage: its figure outlives exec, so a child of a big process would report its parent's peak.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) * 1024 if "VmHWM" in lines else None


def _say(**message: object) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
