"""A dataset decoded into memory, and how it is identified."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msq.checkpoint import DataId, InputSpec
from train.data.augment import Augmentation
from train.data.loader import BatchLoader
from train.data.order import Order


@dataclass(frozen=True)
class DecodedDataset:
    """Images uint8 (n, height, width, channels) and labels int64 (n,), for training and for testing."""

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    labels: tuple[str, ...]
    """Name of every class, by label."""
    input: InputSpec
    """Size of the images, and mean and standard deviation of the training images, of pixels in [0, 1]."""
    augmentation: Augmentation
    """What suits this dataset in training."""

    def id(self) -> DataId:
        """Return the dataset's identity: a sha256 over the decoded images and labels."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().numpy().data)
        return DataId(
            name=self.name, sha256=digest.hexdigest(), train=len(self.train_labels), test=len(self.test_labels)
        )

    def with_input(self, input: InputSpec) -> "DecodedDataset":
        """Return the same images, normalised in another way."""
        return replace(self, input=input)

    def training(self, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> BatchLoader:
        """Return the shuffled, augmented batches of the training set, all of one size where there are enough."""
        n = len(self.train_labels)
        whole = n >= batch_size * world_size
        order = Order(n, batch_size, shuffle=True, drop_last=whole, seed=seed, rank=rank, world_size=world_size)
        return BatchLoader(self.train_images, self.train_labels, self.input, order, self.augmentation)

    def testing(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> BatchLoader:
        """Return the batches of the test set, in order, none left out."""
        order = Order(len(self.test_labels), batch_size, rank=rank, world_size=world_size)
        return BatchLoader(self.test_images, self.test_labels, self.input, order)

    def evaluation(self) -> Iterator[Tensor]:
        """Yield the test images, all at once."""
        yield self.test_images


def input_of(images: Tensor) -> InputSpec:
    """Return the input spec of uint8 images (n, h, w, c): their size, mean and standard deviation per channel.

    Both are exact sums over the pixel values' histogram, so they do not depend on the machine.
    """
    _, height, width, channels = images.shape
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(channels):
        share = torch.bincount(images[..., channel].reshape(-1), minlength=256) / images[..., channel].numel()
        average = float((share * values).sum())
        mean.append(round(average, 4))
        std.append(round(float((share * (values - average) ** 2).sum() ** 0.5), 4))
    return InputSpec(height=height, width=width, channels=channels, mean=tuple(mean), std=tuple(std))
