"""Augmentation and normalisation of batches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msq import preprocessing
from msq.checkpoint import InputSpec
from train.data.augment import Augmentation, augment, cut, normalise

shapes = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
augmentations = st.builds(Augmentation, st.integers(0, 4), st.booleans(), st.integers(0, 5))


def images_of(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(shape=shapes, how=augmentations, seed=st.integers(0, 2**31))
def test_the_same_generator_gives_the_same_images(shape, how, seed):
    images = images_of(shape)
    assert torch.equal(augment(images, how, generator(seed)), augment(images, how, generator(seed)))


@given(shape=shapes, how=augmentations, seed=st.integers(0, 2**31))
def test_every_image_is_a_crop_of_its_padded_self_maybe_mirrored(shape, how, seed):
    images = images_of(shape)
    before = images.clone()
    found = augment(images, how, generator(seed)).numpy()
    assert torch.equal(images, before)
    _, height, width, _ = shape
    p = how.padding
    padded = np.pad(images.numpy(), ((0, 0), (p, p), (p, p), (0, 0)))
    for image, source in zip(found, padded, strict=True):
        crops = [source[y : y + height, x : x + width] for y in range(2 * p + 1) for x in range(2 * p + 1)]
        mirrored = [crop[:, ::-1] for crop in crops] if how.flip else []
        assert any(np.array_equal(image, crop) for crop in [*crops, *mirrored])


def test_crops_and_mirrorings_are_all_drawn():
    marked = torch.zeros(2000, 5, 6, 1, dtype=torch.uint8)
    marked[:, 2, 2] = 255
    found = augment(marked, Augmentation(padding=1, flip=True), generator(0))
    places, counts = found[..., 0].nonzero()[:, 1:].unique(dim=0, return_counts=True)
    # The point's row 2 goes to 1..3; its column 2 to 1..3, or mirrored, column 3, to 2..4.
    assert places.tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3, 4)]
    assert counts.sum() == 2000
    assert counts.min() > 60


def test_without_augmentation_the_images_stay():
    images = images_of((3, 4, 5, 3))
    assert torch.equal(augment(images, Augmentation(), generator(0)), images)


def test_no_two_images_of_a_batch_share_their_draw():
    same = images_of((1, 16, 16, 3)).expand(64, -1, -1, -1)
    found = augment(same, Augmentation(padding=4, flip=True), generator(0))
    assert len(found.flatten(1).unique(dim=0)) > 20


@pytest.mark.parametrize("side", [0, 1, 4, 7])
def test_a_cut_hides_at_most_one_square(side):
    batch = torch.ones(300, 3, 9, 11)
    found = cut(batch.clone(), Augmentation(cutout=side), generator(0))
    hidden = (found == 0).all(1)
    assert torch.equal(hidden, (found == 0).any(1))
    for image in hidden:
        rows, columns = image.any(1), image.any(0)
        assert image.sum() == rows.sum() * columns.sum() <= side * side
    assert hidden.flatten(1).sum(1).max() == side * side


@given(mean=st.lists(st.floats(0, 1), min_size=3, max_size=3), std=st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_normalisation_is_bit_for_bit_that_of_the_device(mean, std):
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()
    spec = InputSpec(height=16, width=16, channels=3, mean=tuple(mean), std=tuple(std))
    wanted = preprocessing.normalise(images.numpy(), spec.mean, spec.std)
    found = normalise(images, spec)
    assert found.dtype == torch.float32
    assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), wanted)


def test_batches_are_channels_last():
    spec = InputSpec(height=6, width=5, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    found = normalise(images_of((4, 6, 5, 3)), spec)
    assert found.shape == (4, 3, 6, 5)
    assert found.is_contiguous(memory_format=torch.channels_last)
