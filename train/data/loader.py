"""Batches out of memory whose order and augmentation are functions of (seed, epoch) alone."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from msq.checkpoint import InputSpec
from train.data.augment import Augmentation, augment, cut, normalise
from train.data.dataset import Dataset


class BatchLoader:
    """An iterable over (images, labels): float32 (n, c, h, w), normalised, channels_last; and int64 (n,).

    With several processes, step b of all of them together takes batch b of world_size · batch_size samples out of
    one permutation; a process takes every world_size-th sample of it, so shards are disjoint. Batch b of an epoch
    depends on nothing that came before it, so an epoch can start at any batch.

    Args:
        images: uint8, (n, h, w, c); batches are on its device.
        labels: int64, (n,).
        spec: how to normalise.
        batch_size: samples of a batch of this process.
        augmentation: None for none.
        shuffle: a new order every epoch, else the order of `images`.
        drop_last: leave an incomplete batch out.
        seed: with the epoch, decides order and augmentation.
        rank, world_size: which process of how many this is.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        spec: InputSpec,
        batch_size: int,
        *,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self._images, self._labels, self._spec = images, labels, spec
        self._augmentation, self._shuffle, self._drop_last = augmentation, shuffle, drop_last
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._epoch = self._start = 0

    @classmethod
    def training(
        cls, dataset: Dataset, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> "BatchLoader":
        """Return the shuffled, augmented batches of the training set, all of one size where there are enough."""
        return cls(
            dataset.train_images,
            dataset.train_labels,
            dataset.input,
            batch_size,
            augmentation=dataset.augmentation,
            shuffle=True,
            drop_last=len(dataset.train_labels) >= batch_size * world_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    @classmethod
    def testing(cls, dataset: Dataset, batch_size: int, *, rank: int = 0, world_size: int = 1) -> "BatchLoader":
        """Return the batches of the test set, in order, none left out."""
        return cls(
            dataset.test_images, dataset.test_labels, dataset.input, batch_size, rank=rank, world_size=world_size
        )

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch to come, and the batch at which the next iteration (only that one) starts."""
        self._epoch, self._start = epoch, start_batch

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch of this process."""
        whole, rest = divmod(len(self._labels), self.batch_size * self._world_size)
        return whole + (not self._drop_last and rest > self._rank)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, start, self._start = self._epoch, self._start, 0
        order = self._order(epoch)
        together = self.batch_size * self._world_size
        for batch in range(start, len(self)):
            chosen = order[batch * together : (batch + 1) * together][self._rank :: self._world_size]
            yield self._batch(chosen, epoch, batch)

    def _batch(self, chosen: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        images, labels = self._images[chosen], self._labels[chosen]
        if self._augmentation is None:
            return normalise(images, self._spec), labels
        generator = _generator("augmentation", self._seed, epoch, batch, self._rank)
        images = augment(images, self._augmentation, generator)
        return cut(normalise(images, self._spec), self._augmentation, generator), labels

    def _order(self, epoch: int) -> Tensor:
        n = len(self._labels)
        if not self._shuffle:
            order = torch.arange(n)
        else:
            order = torch.randperm(n, generator=_generator("order", self._seed, epoch))
        return order.to(self._images.device)


def _generator(purpose: Literal["order", "augmentation"], *key: int) -> Generator:
    """Return a CPU generator that is a function of its purpose and key alone, unlike those of all other keys."""
    state = np.random.SeedSequence([purpose == "order", *key]).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0]))
