"""Preprocessing: stored uint8 images become what a model eats. Standard library and numpy only: it runs on boards."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def normalise(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return (pixel / 255 − mean[c]) / std[c], every step in float32, so that it is the same on every machine.

    Args:
        images: uint8, shape (n, height, width, channels).
        mean, std: one value a channel, in units of pixel / 255.
    Returns:
        float32, of the same shape.
    """
    pixels = images.astype(np.float32) / np.float32(255)
    centred: NDArray[np.float32] = pixels - np.asarray(mean, np.float32)
    centred /= np.asarray(std, np.float32)
    return centred
