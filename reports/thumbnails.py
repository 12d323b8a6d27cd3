"""Thumbnails: the images behind the worst confusions, as they lie in the evaluation set."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from msq.errors import BundleError
from msq.measurement import Measurement
from reports.classes import class_name

MOST_CONFUSIONS = 6
MOST_IMAGES = 8
"""Of a confusion."""
SIDE = 64
"""Most pixels of a side; larger images are made smaller."""


@dataclass(frozen=True)
class Thumbnail:
    """An image: its index in the evaluation set, and itself as a data: address of a PNG."""

    index: int
    address: str


@dataclass(frozen=True)
class Album:
    """Images of one class that were taken for another; count is of all such, shown here or not."""

    label: str
    predicted: str
    count: int
    thumbnails: tuple[Thumbnail, ...]


def albums(measurement: Measurement, evaluation: Path) -> tuple[Album, ...]:
    """Return the worst confusions with some of their images, the most frequent first.

    Args:
        evaluation: folder with images.npy and labels.npy, which the measurement was taken with.
    Raises:
        BundleError: they are missing, or not those of the measurement.
    """
    images, labels = (_load(evaluation / name) for name in ("images.npy", "labels.npy"))
    missed: dict[tuple[int, int], list[int]] = {}
    for said in measurement.predictions:
        if said.index >= min(len(images), len(labels)) or labels[said.index] != said.label:
            raise BundleError(
                f"{evaluation}: image {said.index} is not the one that was measured",
                hint="give the evaluation folder that `msq measure` was given",
            )
        if said.label != said.predicted:
            missed.setdefault((said.label, said.predicted), []).append(said.index)
    worst = sorted(missed.items(), key=lambda item: -len(item[1]))[:MOST_CONFUSIONS]
    names = measurement.manifest.labels
    return tuple(
        Album(
            label=class_name(label, names),
            predicted=class_name(predicted, names),
            count=len(indices),
            thumbnails=tuple(Thumbnail(index, _png(images[index])) for index in indices[:MOST_IMAGES]),
        )
        for (label, predicted), indices in worst
    )


def _load(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: missing or not a .npy file: {error}", hint="train writes it") from None
    return found


def _png(pixels: NDArray[np.uint8]) -> str:
    """Return an image, uint8 (h, w, 1 or 3), as a data: address."""
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
