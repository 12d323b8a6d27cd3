"""Augmentation and normalisation of a whole batch as tensor operations, on whatever device the images are."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from msq.checkpoint import InputSpec


@dataclass(frozen=True)
class Augmentation:
    """What training does to its images.

    padding: a crop of the image's own size is taken at random from the image with that many black pixels around.
    flip: every other image, at random, is mirrored left to right.
    cutout: side in pixels of a square, at a random place, that is set to the mean (arXiv 1708.04552).
    """

    padding: int = 0
    flip: bool = False
    cutout: int = 0


def augment(images: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """Return the images cropped and mirrored at random.

    Args:
        images: uint8, (n, h, w, c), on any device.
        augmentation: what to do; cutout is a matter of `cut`.
        generator: decides everything; the same state gives the same images on every device it can live on.
    Returns:
        uint8, (n, h, w, c).
    """
    n, height, width, channels = images.shape
    pad = augmentation.padding
    rows = torch.arange(height).expand(n, height)
    columns = torch.arange(width).expand(n, width)
    if augmentation.flip:
        mirrored = _draw(2, n, generator).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    if pad:
        rows = rows + _draw(2 * pad + 1, n, generator)
        columns = columns + _draw(2 * pad + 1, n, generator)
        images = torch.nn.functional.pad(images, (0, 0, pad, pad, pad, pad))
    elif not augmentation.flip:
        return images
    # One gather over the pixels of all images, each pixel a row of `channels` values.
    first = torch.arange(n).mul_(height + 2 * pad)[:, None] + rows
    pixels = (first.mul_(width + 2 * pad)[:, :, None] + columns[:, None, :]).reshape(-1)
    taken = images.reshape(-1, channels).index_select(0, pixels.to(images.device))
    return taken.reshape(n, height, width, channels)


def cut(batch: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """Set a random square of every normalised image to zero, the mean; a square may reach over the border.

    Args:
        batch: float32, (n, c, h, w); changed in place.
    """
    side = augmentation.cutout
    if not side:
        return batch
    n, _, height, width = batch.shape

    def hidden(size: int) -> Tensor:
        distance = torch.arange(size) - _draw(size, n, generator) + side // 2
        return (distance >= 0) & (distance < side)

    square = hidden(height)[:, None, :, None] & hidden(width)[:, None, None, :]
    return batch.masked_fill_(square.to(batch.device), 0.0)


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """Return (pixel / 255 − mean[c]) / std[c], each step rounded to float32 as in msq.preprocessing.

    Args:
        images: uint8, (n, h, w, c).
    Returns:
        float32, (n, c, h, w), in channels_last memory format.
    """
    n, height, width, channels = images.shape

    def constant(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=images.device)

    # 255 as a tensor: by a Python number some devices multiply with the reciprocal, which rounds differently.
    # The constants repeat over a row of pixels: a broadcast over so long a last dimension is vectorised.
    mean, std = constant(*spec.mean).repeat(width), constant(*spec.std).repeat(width)
    rows = images.reshape(n, height, width * channels).float()
    rows = rows.div_(constant(255.0)).sub_(mean).div_(std)
    return rows.reshape(n, height, width, channels).permute(0, 3, 1, 2)


def _draw(below: int, n: int, generator: Generator) -> Tensor:
    """Return n integers in [0, below), int64, (n, 1), on the CPU."""
    drawn = torch.randint(below, (n, 1), generator=generator, device=generator.device)
    return drawn.to("cpu")
