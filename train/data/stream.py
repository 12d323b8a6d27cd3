"""A dataset of any size, read from its files while it is used."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from msq.checkpoint import DataId, InputSpec
from msq.errors import DataError
from train.data.augment import normalise
from train.data.decoders import Decoders, Key
from train.data.order import Order

_TRAIN, _TEST = 0, 1
_PIECE = 64
"""Test images that are handed to the checkpoint at a time."""


class StreamLoader:
    """An iterable over (images, labels): float32 (n, c, h, w), normalised, channels_last; and int64 (n,).

    What image i looks like in an epoch is a function of (seed, epoch, i), however many workers and processes there are.

    Args:
        decoders, part: where images come from. labels: int64, (n,). spec: how to normalise.
        order: which images make up which batch.
    """

    def __init__(self, decoders: Decoders, part: int, labels: Tensor, spec: InputSpec, order: Order) -> None:
        self._decoders, self._part = decoders, part
        self._labels, self._spec, self._order = labels, spec, order
        self._epoch = self._start = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch to come, and the batch at which the next iteration (only that one) starts."""
        self._epoch, self._start = epoch, start_batch

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch of this process."""
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, start, self._start = self._epoch, self._start, 0
        batches = [chosen for _, chosen in self._order.batches(epoch, start)]
        keys: list[Key] = [(self._part, self._order.seed, epoch, chosen.tolist()) for chosen in batches]
        for chosen, images in zip(batches, self._decoders.batches(keys), strict=True):
            yield normalise(images, self._spec), self._labels[chosen]


@dataclass(frozen=True)
class StreamedDataset:
    """Images that stay in their files."""

    name: str
    decoders: Decoders
    """Of two parts: what is trained on, and what is tested on."""
    train_labels: Tensor
    test_labels: Tensor
    labels: tuple[str, ...]
    """Name of every class, by label."""
    input: InputSpec
    """Size of what is seen of an image, and how it is normalised."""
    sha256: str
    """Over the path and the size in bytes of every file, not its content: that would be hours at this size."""

    def id(self) -> DataId:
        """Return the dataset's identity: a sha256 over the files' names and sizes."""
        return DataId(name=self.name, sha256=self.sha256, train=len(self.train_labels), test=len(self.test_labels))

    def with_input(self, input: InputSpec) -> "StreamedDataset":
        """Return the same images, normalised in another way."""
        return replace(self, input=input)

    def training(self, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> StreamLoader:
        """Return the shuffled, augmented batches of the training set, all of one size.

        Raises:
            DataError: there are fewer images than one step of all processes takes.
        """
        n, step = len(self.train_labels), batch_size * world_size
        if n < step:
            raise DataError(
                f"{self.name}: {n} training images are fewer than the {step} of one step",
                hint=f"set float.batch_size to {n // world_size} or less" if n >= world_size else "",
            )
        order = Order(n, batch_size, shuffle=True, drop_last=True, seed=seed, rank=rank, world_size=world_size)
        return StreamLoader(self.decoders, _TRAIN, self.train_labels, self.input, order)

    def testing(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> StreamLoader:
        """Return the batches of the test set, in order, none left out."""
        order = Order(len(self.test_labels), batch_size, rank=rank, world_size=world_size)
        return StreamLoader(self.decoders, _TEST, self.test_labels, self.input, order)

    def evaluation(self) -> Iterator[Tensor]:
        """Yield the test images, uint8 (n, size, size, 3), some at a time."""
        pieces = Order(len(self.test_labels), _PIECE).batches(0)
        return self.decoders.batches([(_TEST, 0, 0, chosen.tolist()) for _, chosen in pieces])
