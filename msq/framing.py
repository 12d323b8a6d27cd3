"""Framing: an image of any size becomes the pixels that a model eats, in training, testing and use alike.

Pillow computes it, so it is the same wherever that is; runtimes and boards get the pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Resampling

from msq.checkpoint import InputSpec
from msq.errors import DataError


@contextmanager
def readable(file: Path) -> Iterator[Image.Image]:
    """Open an image. Raises DataError, with the file's name, whatever shows while it is decoded to be wrong with it."""
    try:
        with Image.open(file) as image:
            yield image
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable image: {error}", hint="mend or remove the file") from None


def frame(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Return what a model sees of an image, uint8 (height, width, channels), as `spec.framing` says.

    Raises:
        DataError: the image has another size than the model's, and nothing says how it gets that.
    """
    how, size = spec.framing, (spec.width, spec.height)
    if how and how.upright:
        image = ImageOps.exif_transpose(image)
    image = image.convert("RGB" if spec.channels == 3 else "L")
    if how and how.short is not None:
        image = centre(image, size, how.short, Resampling[how.resampling.upper()])
    elif how and image.size != size:
        image = ImageOps.fit(image, size, Resampling[how.resampling.upper()])
    if image.size != size:
        raise DataError(
            f"an image of {image.width} × {image.height} pixels, for a model of {spec.width} × {spec.height}",
            hint="bring it to that size: the model was trained on images that come in it",
        )
    return np.asarray(image, np.uint8).reshape(spec.height, spec.width, spec.channels)


def centre(image: Image.Image, size: tuple[int, int], short: int, resampling: Resampling) -> Image.Image:
    """Return the centre, width × height, of the image scaled so that its short side has `short` pixels.

    Computed as torchvision's Resize and CenterCrop do, by which published accuracies are measured.
    """
    width, height = image.size
    if width <= height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    left, top = round((width - size[0]) / 2), round((height - size[1]) / 2)
    return image.resize((width, height), resampling).crop((left, top, left + size[0], top + size[1]))
