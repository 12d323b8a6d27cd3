"""What training asks of a dataset, whether it lies in memory (decoded.py) or is read from its files (stream.py)."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from msq.checkpoint import DataId, InputSpec


class Batches(Protocol):
    """An iterable over (images, labels): float32 (n, c, h, w), normalised, channels_last; and int64 (n,).

    An epoch is a function of (seed, epoch), and its batch b depends on nothing that came before it. Iterating raises
    DataError when an image cannot be read.
    """

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch to come, and the batch at which the next iteration (only that one) starts."""
        ...

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch of this process."""
        ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class Dataset(Protocol):
    """Images and their labels, for training and for testing."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of every class, by label."""
        ...

    @property
    def input(self) -> InputSpec:
        """Size of the images, and how they are normalised."""
        ...

    @property
    def train_labels(self) -> Tensor:
        """Label of every training image, int64 (n,)."""
        ...

    @property
    def test_labels(self) -> Tensor:
        """Label of every test image, int64 (n,)."""
        ...

    def id(self) -> DataId:
        """Return the dataset's identity; what the digest is over, the implementation says."""
        ...

    def with_input(self, input: InputSpec) -> "Dataset":
        """Return the same images, normalised in another way."""
        ...

    def training(self, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> Batches:
        """Return the shuffled, augmented batches of the training set, all of one size where there are enough.

        Args:
            batch_size: images of a batch of this process.
            rank, world_size: which process of how many this is; their shards are disjoint.
        Raises:
            DataError: the dataset cannot fill one batch and needs to.
        """
        ...

    def testing(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> Batches:
        """Return the batches of the test set, in order, none left out."""
        ...

    def evaluation(self) -> Iterator[Tensor]:
        """Yield the test images as the checkpoint keeps them, in the order of `test_labels`: uint8 (n, h, w, c)."""
        ...
