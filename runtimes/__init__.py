"""Runtimes load a bundle and run it. One adapter a file; each has a `Session`, and names the lowering it reads.

Target-side: imports only the standard library, numpy and the runtime itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from msq import plugins
from msq.integer_model import IntegerModel


class Session(Protocol):
    """A loaded model. Images are float32 (n, height, width, channels), preprocessed."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's output, float32 (n, classes)."""
        ...

    def tensors(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every int8 tensor of the integer model and its output, by name, in NHWC with the batch first.

        They are those of one run of the whole model; of a runtime that is STEPWISE, each is what its node makes of
        the oracle's tensors.
        """
        ...


@dataclass(frozen=True)
class Memory:
    """Bytes that a loaded model holds: its arena, the least that any arena takes, and its mapped weights."""

    arena: int
    arena_bound: int
    weights: int


@runtime_checkable
class Planned(Protocol):
    """A session whose activations and workspace lie in one arena, planned when the model is loaded."""

    def memory(self) -> Memory:
        """Return what the model holds."""
        ...

    def timeline(self) -> dict[str, int]:
        """Return the bytes of the arena that are in use while each node runs, by its name, in the order of running."""
        ...


@runtime_checkable
class Placed(Protocol):
    """A session that runs on whichever processor a device has of several."""

    def providers(self) -> Sequence[str]:
        """Return what runs the model, the first one preferred, as its runtime names it."""
        ...


class Adapter(Protocol):
    """What a module of this package offers."""

    LOWERING: str
    """Name of the export lowering whose bundles it loads."""
    MODE: str
    """stock (the runtime as released), hook (with our packed kernels), native (our own) or oracle."""
    STEPWISE: bool
    """It rounds in its own way, so that over a whole model differences add up: nodes are compared one by one."""
    PACKAGES: Sequence[str] | None
    """Distributions a board needs beside Python and numpy, pinned as the host has them.

    None: it needs not even those, as the static program msq-run is sent there.
    """

    def version(self) -> str:
        """Return the runtime's version. Raises DeviceError when it is not installed."""
        ...

    def libraries(self) -> dict[str, str]:
        """Return what else has a part in the results, by name, with its version or variant."""
        ...

    def resident(self, model: IntegerModel) -> tuple[int, str]:
        """Return the bytes of weights, scales and biases that are held once a model is loaded, and why so many."""
        ...

    def load(self, bundle: Path, threads: int) -> Session:
        """Load the bundle's model. Raises BundleError when the runtime refuses it."""
        ...


def host_of(name: str) -> str:
    """Return the runtime that stands in for another where its bundles are exported: itself, unless it names a HOST.

    Raises UsageError.
    """
    return str(getattr(adapter(name), "HOST", name))


def names() -> list[str]:
    """Return the runtimes there are."""
    return plugins.names(__name__)


def adapter(name: str) -> Adapter:
    """Return the adapter of that name. Raises UsageError."""
    module: Any = plugins.load(__name__, name, "runtime")
    return module  # type: ignore[no-any-return]
