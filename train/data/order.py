"""Which samples make up which batch: a function of (seed, epoch), shared out among processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Order:
    """The batches of one process.

    With several processes, step b of all of them together takes batch b of world_size · batch_size samples out of
    one permutation; a process takes every world_size-th sample of it, so shards are disjoint. Batch b of an epoch
    depends on nothing that came before it, so an epoch can start at any batch.

    samples: how many there are. batch_size: samples of a batch of this process. shuffle: a new order every epoch, else
    0, 1, 2 …. drop_last: leave an incomplete batch out. rank, world_size: which process of how many this is.
    """

    samples: int
    batch_size: int
    shuffle: bool = False
    drop_last: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch of this process."""
        whole, rest = divmod(self.samples, self.batch_size * self.world_size)
        return whole + (not self.drop_last and rest > self.rank)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Yield every batch's number, from `start` on, and its samples, int64 (n,)."""
        order = torch.arange(self.samples)
        if self.shuffle:
            order = torch.randperm(self.samples, generator=generator("order", self.seed, epoch))
        together = self.batch_size * self.world_size
        for batch in range(start, len(self)):
            yield batch, order[batch * together : (batch + 1) * together][self.rank :: self.world_size]


def entropy(purpose: Literal["order", "augmentation"], *key: int) -> np.random.SeedSequence:
    """Return the seed of a generator that is a function of its purpose and key alone, unlike those of other keys."""
    return np.random.SeedSequence([purpose == "order", *key])


def generator(purpose: Literal["order", "augmentation"], *key: int) -> Generator:
    """Return torch's CPU generator of that purpose and key."""
    return Generator().manual_seed(int(entropy(purpose, *key).generate_state(1, np.uint64)[0]))
