"""The agent where the device has no Python: the static program msq-run, sent alone with the integer model."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.agent import Answer, Job
from devices.conversation import SILENCE, Message, converse
from devices.golden import compare
from devices.transport import Transport
from msq.bundle import MANIFEST_FILE
from msq.errors import DeviceError
from msq.integer_model import GRAPH_FILE, WEIGHTS_FILE
from runtimes.native import program

FILES = (MANIFEST_FILE, GRAPH_FILE, WEIGHTS_FILE)


class NativeAgent:
    """A devices.dispatch.Agent: sends everything when it is made.

    Args:
        transport: to a prepared device. bundle: folder. silence: see devices.conversation.
    Raises:
        DeviceError: msq-run is not built for the device's architecture.
    """

    def __init__(self, transport: Transport, bundle: Path, silence: float = SILENCE) -> None:
        self.transport, self._bundle, self._silence = transport, bundle, silence
        transport.put([program(transport.machine)], PurePosixPath())
        transport.put([path for name in FILES if (path := bundle / name).is_file()], PurePosixPath("bundle"))

    def run(self, number: int, job: Job, images: NDArray[np.uint8], on_images: Callable[[int], None]) -> Answer:
        """Do a job over images; see devices.dispatch.Agent. Its batch means nothing here: images run one by one."""
        timed: list[Message] = []
        if job.latency_samples and len(images):
            # A process that runs the model and does nothing else: its peak of memory is the model's.
            timed = self._start(number, job, images[:1], ["--repeat", str(job.latency_samples)])
        golden = compare(lambda x: self._tensors(number, job, x), self._bundle) if job.golden else None

        def hear(message: Message) -> None:
            if message.get("what") == "images":
                on_images(message["done"])

        said = self._start(number, job, images, [], hear)
        model = next(iter(_about("model", said)), None)
        if model is None:
            raise DeviceError("msq-run ended well but said nothing of the model", hint="this is a bug of the toolchain")
        return Answer(
            machine=model["machine"],
            python=None,
            kernel=model["kernel"],
            runtime_version=model["version"],
            libraries={"packed kernels": model["tier"]},
            golden=golden,
            predictions=[index for message in _about("images", said) for index in message["predictions"]],
            latency_seconds=[seconds for message in _about("latency", timed) for seconds in message["seconds"]],
            peak_memory_bytes=next((message["peak_bytes"] for message in _about("memory", timed)), None),
        )

    def _start(
        self,
        number: int,
        job: Job,
        images: NDArray[Any],
        options: Sequence[str],
        hear: Callable[[Message], None] = lambda message: None,
    ) -> list[Message]:
        """Run the program over images, uint8 or float32, and return what it said."""
        name = f"images-{number}.npy"
        with tempfile.TemporaryDirectory(prefix="msq-job-") as temporary:
            np.save(Path(temporary, name), images)
            self.transport.put([Path(temporary, name)], PurePosixPath())
        argv = ["./msq-run", job.bundle, "--input", name, "--threads", str(job.threads), *options]
        return converse(self.transport, argv, hear, self._silence)

    def _tensors(self, number: int, job: Job, x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every tensor that the device makes of preprocessed images, by name, batch first."""
        name = f"tensors-{number}"
        described = _about("tensor", self._start(number, job, x, ["--tensors", name]))
        record = np.dtype([(one["name"], one["dtype"], tuple(one["shape"])) for one in described])
        with tempfile.TemporaryDirectory(prefix="msq-job-") as temporary:
            self.transport.get(PurePosixPath(name), Path(temporary, name))
            data = Path(temporary, name).read_bytes()
        if len(data) != record.itemsize * len(x):
            raise DeviceError(f"the device wrote {len(data)} bytes of tensors, {record.itemsize * len(x)} are wanted")
        images = np.frombuffer(data, record)
        return {one["name"]: np.ascontiguousarray(images[one["name"]]) for one in described}


def _about(what: str, said: Sequence[Message]) -> list[Message]:
    return [message for message in said if message.get("what") == what]
