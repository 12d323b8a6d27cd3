"""Sending agents to a device: what they need goes there, they run side by side, their answers come back."""

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from devices.agent import Answer, Job
from devices.transport import Completed, Transport
from msq.errors import DeviceError, MsqError

SHARED_MODULES = ("__init__", "errors", "checksums", "packing", "nodes", "integer_model", "preprocessing", "plugins")
"""The files of msq/ that the agent and the runtimes import."""

SILENCE = 900.0
"""Seconds without a word after which an agent is taken for hung: under emulation one batch can take minutes."""


class Dispatcher:
    """A bundle on a prepared device, ready for agents to be sent to it."""

    def __init__(self, transport: Transport, bundle: Path) -> None:
        self._transport = transport
        transport.put([_source("devices") / "agent.py"], PurePosixPath())
        transport.put([_source("msq") / f"{name}.py" for name in SHARED_MODULES], PurePosixPath("msq"))
        transport.put(sorted(_source("runtimes").glob("*.py")), PurePosixPath("runtimes"))
        for library in sorted((_source("runtimes") / "kernels" / "lib").glob("*/*.so")):
            transport.put([library], PurePosixPath("runtimes", "kernels", "lib", library.parent.name))
        for folder, _, names in os.walk(bundle):
            place = PurePosixPath("bundle", *Path(folder).relative_to(bundle).parts)
            transport.put([Path(folder, name) for name in sorted(names)], place)

    def run(
        self,
        job: Job,
        images: NDArray[np.uint8],
        agents: int,
        on_images: Callable[[int], None],
        silence: float = SILENCE,
    ) -> list[Answer]:
        """Share the images out among agents that run at once; the first one also does what the job asks beside.

        Args:
            job: for each agent; its images are filled in here.
            images: uint8, (n, height, width, channels).
            on_images: called with the number of images newly done, from several threads.
        Returns:
            Answers in the order of the images.
        Raises:
            MsqError: what an agent said, in its own class; DeviceError when it died without a word.
        """
        shards = np.array_split(images, agents)
        jobs = [job, *[replace(job, golden=False, latency_samples=0)] * (agents - 1)]
        pool = ThreadPoolExecutor(agents)
        try:
            work = [
                pool.submit(self._one, number, part, shard, on_images, silence)
                for number, (part, shard) in enumerate(zip(jobs, shards, strict=True))
            ]
            for done in as_completed(work):
                done.result()
            return [done.result() for done in work]
        except BaseException:
            # One failed, or Ctrl-C: the others are stopped rather than waited for.
            self._transport.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _one(
        self, number: int, job: Job, images: NDArray[np.uint8], on_images: Callable[[int], None], silence: float
    ) -> Answer:
        names = [f"images-{number}.npy", f"job-{number}.json", f"answer-{number}.json"]
        done = 0

        def hear(line: str) -> None:
            nonlocal done
            said = _message(line)
            if said.get("what") == "images":
                on_images(said["done"] - done)
                done = said["done"]

        with tempfile.TemporaryDirectory(prefix="msq-job-") as temporary:
            image_file, job_file, answer_file = (Path(temporary, name) for name in names)
            np.save(image_file, images)
            job_file.write_text(json.dumps(asdict(replace(job, images=names[0]))), encoding="utf-8")
            self._transport.put([image_file, job_file], PurePosixPath())
            completed = self._transport.run(["python3", "agent.py", *names[1:]], silence, hear)
            if completed.returncode:
                raise _failure(completed)
            self._transport.get(PurePosixPath(names[2]), answer_file)
            try:
                return TypeAdapter(Answer).validate_json(answer_file.read_text(encoding="utf-8"))
            except ValidationError as error:
                raise DeviceError(f"the agent's answer cannot be read: {error.errors()[0]['msg']}") from None


def _source(package: str) -> Path:
    """Return the folder of a package's source files, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise DeviceError(f"the source files of {package}/ are not installed", hint="install the toolchain again")
    return Path(found.origin).parent


def _message(line: str) -> dict[str, Any]:
    """Return the message that a line of the agent holds; empty for what a library printed."""
    if not line.startswith("{"):
        return {}
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return said


def _failure(completed: Completed) -> MsqError:
    """Return the error that the agent told of, in its own class, else a DeviceError with the last words on stderr."""
    for line in reversed(completed.stdout.splitlines()):
        if "error" in (said := _message(line)):
            classes: Sequence[type[MsqError]] = MsqError.__subclasses__()
            kind = next((cls for cls in classes if cls.exit_code == said.get("exit_code")), DeviceError)
            return kind(said["error"], hint=said.get("hint", ""))
    words = completed.stderr.strip().splitlines()
    how = f"was killed by signal {completed.returncode - 128}" if completed.returncode > 128 else "failed"
    return DeviceError(
        f"the agent {how} (exit code {completed.returncode}): {words[-1].strip() if words else 'it said nothing'}",
        hint="out of memory on the device? otherwise this is a bug of the toolchain",
    )
