"""Batches out of memory whose order and augmentation are functions of (seed, epoch) alone."""

from collections.abc import Iterator

from torch import Tensor

from msq.checkpoint import InputSpec
from train.data.augment import Augmentation, augment, cut, normalise
from train.data.order import Order, generator


class BatchLoader:
    """An iterable over (images, labels): float32 (n, c, h, w), normalised, channels_last; and int64 (n,).

    Args:
        images: uint8, (n, h, w, c); batches are on its device.
        labels: int64, (n,).
        spec: how to normalise.
        order: which images make up which batch; with the epoch it decides the augmentation too.
        augmentation: None for none.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, spec: InputSpec, order: Order, augmentation: Augmentation | None = None
    ) -> None:
        self._images, self._labels, self._spec = images, labels, spec
        self._order, self._augmentation = order, augmentation
        self._epoch = self._start = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch to come, and the batch at which the next iteration (only that one) starts."""
        self._epoch, self._start = epoch, start_batch

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch of this process."""
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, start, self._start = self._epoch, self._start, 0
        for batch, chosen in self._order.batches(epoch, start):
            yield self._batch(chosen.to(self._images.device), epoch, batch)

    def _batch(self, chosen: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        images, labels = self._images[chosen], self._labels[chosen]
        if self._augmentation is None:
            return normalise(images, self._spec), labels
        random = generator("augmentation", self._order.seed, epoch, batch, self._order.rank)
        images = augment(images, self._augmentation, random)
        return cut(normalise(images, self._spec), self._augmentation, random), labels
