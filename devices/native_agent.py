"""The agent where the device has no Python: the static program msq-run, sent alone with the integer model."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.agent import SETTLING_RUNS, Latency, Memory, Place
from devices.conditions import Conditions
from devices.conversation import SILENCE, Message, classes_to, converse
from devices.golden import Golden, compare
from devices.protocol import Protocol
from devices.transport import TIER_VARIABLE, Transport
from msq.bundle import MANIFEST_FILE
from msq.errors import DeviceError
from msq.integer_model import GRAPH_FILE, WEIGHTS_FILE
from runtimes.native import program

QUICK_TIER = "scalar"
"""The kernels' tier by which an emulated processor classifies images: NEON takes five times as long to emulate. All
tiers compute the same, bit for bit; golden vectors are run by the processor's best one."""

FILES = (MANIFEST_FILE, GRAPH_FILE, WEIGHTS_FILE)


class NativeAgent:
    """A devices.dispatch.Agent: sends everything when it is made.

    Args:
        transport: to a prepared device. bundle: folder. threads: of the runtime. silence: see devices.conversation.
    Raises:
        DeviceError: msq-run is not built for the device's architecture.
    """

    def __init__(self, transport: Transport, bundle: Path, threads: int = 1, silence: float = SILENCE) -> None:
        self.transport, self._bundle, self._threads, self._silence = transport, bundle, threads, silence
        self._is_quick = transport.emulator is not None and TIER_VARIABLE not in os.environ
        transport.put([program(transport.machine)], PurePosixPath())
        transport.put([path for name in FILES if (path := bundle / name).is_file()], PurePosixPath("bundle"))

    def golden(self) -> tuple[Place, Golden]:
        """Compare the golden vectors here, from the tensors that the device makes; see devices.dispatch.Agent."""
        said: list[Message] = []

        def tensors(x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
            said.extend(self._start("golden", x, ["--tensors", "tensors"]))
            return self._read("tensors", _about("tensor", said), len(x))

        golden = compare(tensors, self._bundle)
        model = _about("model", said)[0]
        place = Place(
            machine=model["machine"],
            python=None,
            kernel=model["kernel"],
            runtime_version=model["version"],
            libraries={
                "packed kernels": model["tier"],
                **({"packed kernels, images": QUICK_TIER} if self._is_quick else {}),
            },
        )
        return place, golden

    def latency(self, image: NDArray[np.uint8], protocol: Protocol) -> Latency:
        """Time inferences; see devices.dispatch.Agent."""
        options = {
            "repeat": protocol.least_runs,
            "seconds": protocol.least_seconds,
            "warm-up": protocol.warm_up_runs,
            "warm-up-seconds": protocol.warm_up_seconds,
            "most-seconds": protocol.most_seconds,
        }
        said = self._start(
            "latency", image, [word for name, value in options.items() for word in (f"--{name}", f"{value}")]
        )
        before, after = (Conditions(**_fields(message)) for message in _about("conditions", said))
        return Latency(_about("latency", said)[0]["seconds"], before, after)

    def memory(self, image: NDArray[np.uint8]) -> Memory:
        """Look at the memory of a process; see devices.dispatch.Agent."""
        said = self._start("memory", image, ["--repeat", str(SETTLING_RUNS), "--warm-up", "0"])
        held = {name: value or None for name, value in _fields(_about("memory", said)[0]).items()}
        return Memory(
            first_seconds=_about("first", said)[0]["seconds"],
            load_peak=held["load_peak_bytes"],
            run_peak=held["run_peak_bytes"],
            anonymous=held["anonymous_bytes"],
            file_mapped=held["file_bytes"],
        )

    def classify(self, number: int, images: NDArray[np.uint8], on_predictions: Callable[[list[int]], None]) -> None:
        """Classify images one by one; see devices.dispatch.Agent."""
        tier = ["--tier", QUICK_TIER] if self._is_quick else []
        self._start(f"classify-{number}", images, tier, classes_to(on_predictions))

    def _start(
        self,
        name: str,
        images: NDArray[Any],
        options: Sequence[str],
        hear: Callable[[Message], None] = lambda message: None,
    ) -> list[Message]:
        """Run the program over images, uint8 or preprocessed float32, and return what it said."""
        file_name = f"images-{name}.npy"
        with tempfile.TemporaryDirectory(prefix="msq-job-") as temporary:
            np.save(Path(temporary, file_name), images)
            self.transport.put([Path(temporary, file_name)], PurePosixPath())
        argv = ["./msq-run", "bundle", "--input", file_name, "--threads", str(self._threads), *options]
        return converse(self.transport, argv, hear, self._silence)

    def _read(self, name: str, described: Sequence[Message], images: int) -> dict[str, NDArray[Any]]:
        """Return the tensors that a file of the device holds of so many images, by name, batch first."""
        record = np.dtype([(one["name"], one["dtype"], tuple(one["shape"])) for one in described])
        with tempfile.TemporaryDirectory(prefix="msq-job-") as temporary:
            self.transport.get(PurePosixPath(name), Path(temporary, name))
            data = Path(temporary, name).read_bytes()
        if len(data) != record.itemsize * images:
            raise DeviceError(f"the device wrote {len(data)} bytes of tensors, {record.itemsize * images} are wanted")
        values = np.frombuffer(data, record)
        return {one["name"]: np.ascontiguousarray(values[one["name"]]) for one in described}


def _about(what: str, said: Sequence[Message]) -> list[Message]:
    """Return the messages on a topic. Raises DeviceError where there is none."""
    found = [message for message in said if message.get("what") == what]
    if not found:
        raise DeviceError(f"msq-run ended well but said nothing of: {what}", hint="this is a bug of the toolchain")
    return found


def _fields(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "what"}
