"""The batch loader: order and augmentation are functions of (seed, epoch) alone."""

from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from train.data.augment import Augmentation
from train.data.decoded import DecodedDataset, input_of
from train.data.loader import BatchLoader
from train.data.order import Order

N = 53


def dataset(n: int = N) -> DecodedDataset:
    """Images whose label is their index."""
    images = torch.randint(0, 256, (n, 6, 6, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(n)
    return DecodedDataset(
        "d", images, labels, images, labels, ("a",), input_of(images), Augmentation(padding=1, flip=True, cutout=2)
    )


DATA = dataset()


def training(seed: int = 0, batch_size: int = 8, **where: int) -> BatchLoader:
    return DATA.training(batch_size, seed=seed, **where)


def labels_of(loader: BatchLoader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), before=st.lists(st.integers(0, 5), max_size=2))
def test_an_epoch_is_a_function_of_seed_and_epoch_alone(seed, epoch, before):
    fresh, used = training(seed), training(seed)
    for earlier in before:
        used.set_epoch(earlier)
        list(used)
    torch.manual_seed(seed % 1000)
    fresh.set_epoch(epoch)
    used.set_epoch(epoch)
    assert same(list(fresh), list(used))


def test_epochs_and_seeds_differ_in_order_and_in_augmentation():
    loader = training()
    epochs = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        epochs.append(labels_of(loader))
    epochs.append(labels_of(training(seed=1)))
    assert len({str(labels) for labels in epochs}) == 4
    still = BatchLoader(DATA.train_images, DATA.train_labels, DATA.input, Order(N, N), DATA.augmentation)
    first = next(iter(still))[0]
    still.set_epoch(1)
    assert not torch.equal(first, next(iter(still))[0])


def test_iterating_again_repeats_the_epoch():
    loader = training()
    assert same(list(loader), list(loader))


@given(start=st.integers(0, 7))
def test_an_epoch_can_be_resumed_at_any_batch(start):
    loader = training()
    loader.set_epoch(3)
    whole = list(loader)
    loader.set_epoch(3, start_batch=start)
    assert same(list(loader), whole[start:])
    assert same(list(loader), whole), "only one iteration starts late"


@given(batch_size=st.integers(1, N), world_size=st.integers(1, 4), epoch=st.integers(0, 9))
def test_shards_are_disjoint_and_together_the_batches_of_one_process(batch_size, world_size, epoch):
    if batch_size * world_size > N:
        return
    shards = []
    for rank in range(world_size):
        loader = training(batch_size=batch_size, rank=rank, world_size=world_size)
        loader.set_epoch(epoch)
        shards.append(labels_of(loader))
        assert len(loader) == len(shards[-1])
        assert all(len(batch) == batch_size for batch in shards[-1])
    alone = training(batch_size=batch_size * world_size)
    alone.set_epoch(epoch)
    together = [sorted(chain(*step)) for step in zip(*shards, strict=True)]
    assert together == [sorted(batch) for batch in labels_of(alone)]
    seen = [label for shard in shards for batch in shard for label in batch]
    assert len(seen) == len(set(seen))


@given(batch_size=st.integers(1, 60), world_size=st.integers(1, 5))
def test_testing_covers_every_image_once_in_order(batch_size, world_size):
    shards = [DATA.testing(batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    seen = []
    for shard in shards:
        batches = labels_of(shard)
        assert len(shard) == len(batches)
        assert all(batches)
        seen += chain(*batches)
    assert sorted(seen) == list(range(N))
    if world_size == 1:
        assert seen == list(range(N))


def test_labels_stay_with_their_images():
    spec = DATA.input
    loader = BatchLoader(DATA.train_images, DATA.train_labels, spec, Order(N, 8, shuffle=True, seed=5))
    whole = BatchLoader(DATA.train_images, DATA.train_labels, spec, Order(N, N))
    (wanted, _), *_ = whole
    for images, labels in loader:
        assert torch.equal(images, wanted[labels])


def test_augmentation_does_not_change_labels_or_order():
    plain = BatchLoader(DATA.train_images, DATA.train_labels, DATA.input, Order(N, 8, shuffle=True, drop_last=True))
    assert labels_of(plain) == labels_of(training())


def test_a_training_set_smaller_than_a_batch_is_one_batch():
    small = dataset(5)
    assert [len(labels) for _, labels in small.training(8, seed=0)] == [5]


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    list(training())
    assert torch.equal(torch.rand(1), wanted)
