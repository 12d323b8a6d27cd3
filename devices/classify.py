"""Images of any size, classified by a bundle on a device."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from devices.deployment import deployed, opened
from devices.profile import profile
from msq.errors import DataError
from msq.framing import frame, readable


def classify(bundle: Path, images: Sequence[Path], device: str, runtime: str) -> list[str]:
    """Return the label of each image: framed here as the bundle says, classified on the device.

    Args:
        bundle: folder. images: files that Pillow reads. device, runtime: as in devices.measure.
    Raises:
        UsageError: the device or runtime is unknown, or the bundle is for another runtime.
        BundleError: the bundle is altered. DataError: an image cannot be read, or has no size that the model takes.
        DeviceError: the device cannot be set up, or failed.
    """
    facts, (_, manifest) = profile(device), opened(bundle, runtime)
    pixels = []
    for path in images:
        with readable(path) as image:
            try:
                pixels.append(frame(image, manifest.input))
            except DataError as error:
                raise DataError(f"{path}: {error}", hint=error.hint) from None
    found: list[int] = []
    with deployed(bundle, runtime, facts) as agent:
        agent.classify(0, np.stack(pixels), found.extend)
    return [manifest.labels[index] for index in found]
