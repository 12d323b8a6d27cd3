"""A bundle on a device: it is checked, the device is prepared for its runtime, and an agent is sent."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import runtimes
from devices import transport as transports
from devices.dispatch import Agent
from devices.native_agent import NativeAgent
from devices.profile import Profile
from devices.python_agent import PythonAgent
from msq.bundle import Manifest
from msq.errors import UsageError


def opened(bundle: Path, runtime: str) -> tuple[runtimes.Adapter, Manifest]:
    """Return a runtime's adapter and the manifest of a bundle that it reads, every file verified.

    Raises:
        UsageError: there is no such runtime, or the bundle is for another one.
        BundleError: a file of the bundle is missing or altered.
    """
    adapter, manifest = runtimes.adapter(runtime), Manifest.open(bundle)
    if manifest.lowering != adapter.LOWERING:
        raise UsageError(
            f"runtime {runtime!r} reads bundles lowered to {adapter.LOWERING!r}; {bundle} is {manifest.lowering!r}",
            hint=f"export the checkpoint for {runtime}",
        )
    return adapter, manifest


@contextmanager
def deployed(bundle: Path, runtime: str, facts: Profile, threads: int = 1) -> Iterator[Agent]:
    """Yield an agent on a device, the bundle beside it; afterwards nothing is left there.

    Raises:
        DeviceError: the device cannot be set up or reached. StorageError: no space for it.
    """
    packages = runtimes.adapter(runtime).PACKAGES
    with closing(transports.transport(facts.transport)) as transport:
        transport.prepare(facts, packages)
        if packages is None:
            yield NativeAgent(transport, bundle, threads)
        else:
            yield PythonAgent(transport, bundle, runtime, threads)
