"""What a net sees of an image of any size: a random part of it in training, its centre in testing."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from msq.framing import centre

Box = tuple[int, int, int, int]
"""left, top, width and height, in pixels."""

_RATIO = 4 / 3
_TRIES = 10


def random_box(width: int, height: int, least: float, random: np.random.Generator) -> Box:
    """Return a random part of an image: its area uniform, its ratio of sides uniform in the logarithm.

    The area is in [least, 1] of the image's, width / height in [3/4, 4/3], both up to rounding to whole pixels. Where
    ten tries have not fitted, the largest part around the centre whose ratio is in that range.

    Args:
        width, height: of the image, pixels, at least 1. least: above 0, at most 1.
    Source: GoogLeNet (arXiv 1409.4842, section 6); tries, rounding and fallback as torchvision's RandomResizedCrop.
    """
    for _ in range(_TRIES):
        area = width * height * random.uniform(least, 1.0)
        ratio = math.exp(random.uniform(-math.log(_RATIO), math.log(_RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(random.integers(width - w + 1)), int(random.integers(height - h + 1)), w, h
    w, h = min(width, round(height * _RATIO)), min(height, round(width * _RATIO))
    return (width - w) // 2, (height - h) // 2, w, h


@dataclass(frozen=True)
class RandomView:
    """A random part, brought to size × size, and mirrored every other time. least: as in `random_box`.

    A JPEG is decoded at a half, a quarter or an eighth of its size (its own transform does that, at a fraction of the
    cost) where the part still has `size` pixels a side then; what is resized is a little smoother for it.
    """

    size: int
    least: float
    flip: bool
    resampling: Resampling

    def __call__(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        """Return the view, RGB, size × size. Draws from `random` alone."""
        width, height = image.size
        across, down, w, h = random_box(width, height, self.least, random)
        mirrored = self.flip and random.random() < 0.5
        drafted = image.draft("RGB", (math.ceil(width * self.size / w), math.ceil(height * self.size / h)))
        # Where nothing was drafted, the file is decoded as it is.
        scale = drafted[1][2] / width if drafted else 1.0
        left, top, right, bottom = (edge * scale for edge in (across, down, across + w, down + h))
        # Cut out before it is resized, as the standard does, so that nothing outside the box is seen.
        x, y = math.floor(left), math.floor(top)
        part = _rgb(image.crop((x, y, math.ceil(right), math.ceil(bottom))))
        view = part.resize((self.size, self.size), self.resampling, (left - x, top - y, right - x, bottom - y))
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else view


@dataclass(frozen=True)
class CentreView:
    """The centre, size × size, of the image scaled so that its short side has `short` ≥ size pixels.

    The image is decoded in full, and its EXIF orientation is left out, as where published accuracies are measured.
    """

    size: int
    short: int
    resampling: Resampling

    def __call__(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        """Return the view, RGB, size × size; nothing is random."""
        return centre(_rgb(image), (self.size, self.size), self.short, self.resampling)


def _rgb(image: Image.Image) -> Image.Image:
    image.load()  # in full or, after a draft, small
    return image if image.mode == "RGB" else image.convert("RGB")
