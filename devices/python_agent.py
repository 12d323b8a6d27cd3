"""The agent where the device has Python: devices/agent.py, sent with the runtimes."""

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from devices.agent import Answer, Job, Latency, Memory, Place
from devices.conversation import SILENCE, Message, classes_to, converse
from devices.golden import Golden
from devices.protocol import Protocol
from devices.transport import Transport
from msq.errors import DeviceError

MODULES: Mapping[str, Sequence[str]] = {
    "devices": ("__init__", "agent", "conditions", "golden", "protocol"),
    "msq": ("__init__", "errors", "checksums", "packing", "nodes", "integer_model", "preprocessing", "plugins"),
}
"""The files that the agent and the runtimes import, beside those of runtimes/."""
BATCH = 32

Result = TypeVar("Result")


class PythonAgent:
    """A devices.dispatch.Agent: sends everything when it is made.

    Args:
        transport: to a device prepared for the runtime's packages. bundle: folder.
        runtime: name. threads: of it. silence: see devices.conversation.
    """

    def __init__(
        self, transport: Transport, bundle: Path, runtime: str, threads: int = 1, silence: float = SILENCE
    ) -> None:
        self.transport, self._silence = transport, silence
        self._runtime, self._threads = runtime, threads
        for package, names in MODULES.items():
            transport.put([_source(package) / f"{name}.py" for name in names], PurePosixPath(package))
        transport.put(sorted(_source("runtimes").glob("*.py")), PurePosixPath("runtimes"))
        libraries = PurePosixPath("kernels", "lib", transport.machine)
        transport.put(sorted((_source("runtimes") / libraries).glob("*.so")), PurePosixPath("runtimes", libraries))
        for folder, _, names in os.walk(bundle):
            place = PurePosixPath("bundle", *Path(folder).relative_to(bundle).parts)
            transport.put([Path(folder, name) for name in sorted(names)], place)

    def place(self) -> Place:
        """Load the model, and return where that was."""
        return self._do("place", Job("bundle", self._runtime, self._threads, "place")).place

    def golden(self) -> tuple[Place, Golden]:
        """Compare the golden vectors; see devices.dispatch.Agent."""
        answer = self._do("golden", Job("bundle", self._runtime, self._threads, "golden"))
        return answer.place, _found(answer.golden)

    def latency(self, image: NDArray[np.uint8], protocol: Protocol) -> Latency:
        """Time inferences; see devices.dispatch.Agent."""
        job = Job("bundle", self._runtime, self._threads, "latency", protocol=protocol)
        return _found(self._do("latency", job, image).latency)

    def memory(self, image: NDArray[np.uint8]) -> Memory:
        """Look at the memory of a process; see devices.dispatch.Agent."""
        return _found(self._do("memory", Job("bundle", self._runtime, self._threads, "memory"), image).memory)

    def classify(self, number: int, images: NDArray[np.uint8], on_predictions: Callable[[list[int]], None]) -> None:
        """Classify images; see devices.dispatch.Agent."""
        job = Job("bundle", self._runtime, self._threads, "classify", batch=BATCH)
        self._do(f"classify-{number}", job, images, classes_to(on_predictions))

    def _do(
        self,
        name: str,
        job: Job,
        images: NDArray[np.uint8] | None = None,
        hear: Callable[[Message], None] = lambda message: None,
    ) -> Answer:
        image_name, job_name, answer_name = f"images-{name}.npy", f"job-{name}.json", f"answer-{name}.json"
        with tempfile.TemporaryDirectory(prefix="msq-job-") as temporary:
            image_file, job_file, answer_file = (Path(temporary, name) for name in (image_name, job_name, answer_name))
            values = asdict(job)
            if images is not None:
                np.save(image_file, images)
                self.transport.put([image_file], PurePosixPath())
                values["images"] = image_name
            job_file.write_text(json.dumps(values), encoding="utf-8")
            self.transport.put([job_file], PurePosixPath())
            converse(self.transport, ["python3", "-m", "devices.agent", job_name, answer_name], hear, self._silence)
            self.transport.get(PurePosixPath(answer_name), answer_file)
            try:
                return TypeAdapter(Answer).validate_json(answer_file.read_text(encoding="utf-8"))
            except ValidationError as error:
                raise DeviceError(f"the agent's answer cannot be read: {error.errors()[0]['msg']}") from None


def _found(result: Result | None) -> Result:
    if result is None:
        raise DeviceError("the agent's answer is not to what it was asked", hint="this is a bug of the toolchain")
    return result


def _source(package: str) -> Path:
    """Return the folder of a package's source files, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise DeviceError(f"the source files of {package}/ are not installed", hint="install the toolchain again")
    return Path(found.origin).parent
