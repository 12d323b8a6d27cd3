"""The agent where the device has Python: devices/agent.py, sent with the runtimes."""

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from devices.agent import Answer, Job
from devices.conversation import SILENCE, Message, converse
from devices.transport import Transport
from msq.errors import DeviceError

MODULES: Mapping[str, Sequence[str]] = {
    "devices": ("__init__", "agent", "golden"),
    "msq": ("__init__", "errors", "checksums", "packing", "nodes", "integer_model", "preprocessing", "plugins"),
}
"""The files that the agent and the runtimes import, beside those of runtimes/."""


class PythonAgent:
    """A devices.dispatch.Agent: sends everything when it is made.

    Args:
        transport: to a device prepared for the runtime's packages. bundle: folder. silence: see devices.conversation.
    """

    def __init__(self, transport: Transport, bundle: Path, silence: float = SILENCE) -> None:
        self.transport, self._silence = transport, silence
        for package, names in MODULES.items():
            transport.put([_source(package) / f"{name}.py" for name in names], PurePosixPath(package))
        transport.put(sorted(_source("runtimes").glob("*.py")), PurePosixPath("runtimes"))
        for library in sorted((_source("runtimes") / "kernels" / "lib").glob(f"{transport.machine}/*.so")):
            transport.put([library], PurePosixPath("runtimes", "kernels", "lib", library.parent.name))
        for folder, _, names in os.walk(bundle):
            place = PurePosixPath("bundle", *Path(folder).relative_to(bundle).parts)
            transport.put([Path(folder, name) for name in sorted(names)], place)

    def run(self, number: int, job: Job, images: NDArray[np.uint8], on_images: Callable[[int], None]) -> Answer:
        """Do a job over images; see devices.dispatch.Agent."""
        image_name, job_name, answer_name = f"images-{number}.npy", f"job-{number}.json", f"answer-{number}.json"

        def hear(message: Message) -> None:
            if message.get("what") == "images":
                on_images(message["done"])

        with tempfile.TemporaryDirectory(prefix="msq-job-") as temporary:
            image_file, job_file, answer_file = (Path(temporary, name) for name in (image_name, job_name, answer_name))
            np.save(image_file, images)
            job_file.write_text(json.dumps(asdict(replace(job, images=image_name))), encoding="utf-8")
            self.transport.put([image_file, job_file], PurePosixPath())
            converse(self.transport, ["python3", "-m", "devices.agent", job_name, answer_name], hear, self._silence)
            self.transport.get(PurePosixPath(answer_name), answer_file)
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
