"""What a net sees of an image: boxes lie inside, centres are those of the standard evaluation."""

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.Image import Resampling

from train.data.views import CentreView, RandomView, random_box

sides = st.integers(1, 2000)
seeds = st.integers(0, 2**32)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft colours, as photographs have."""
    coarse = generator(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Resampling.BICUBIC)


def saved(image: Image.Image, format: str) -> Image.Image:
    """The image as it comes from a file, not decoded yet."""
    stream = io.BytesIO()
    image.save(stream, format, **({"quality": 95} if format == "JPEG" else {}))
    return Image.open(io.BytesIO(stream.getvalue()))


# ---- random boxes


@given(width=sides, height=sides, least=st.floats(0.01, 1), seed=seeds)
def test_a_random_box_lies_in_the_image_with_area_and_ratio_in_range(width, height, least, seed):
    left, top, w, h = random_box(width, height, least, generator(seed))
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert w >= 1
    assert h >= 1
    # A side is rounded to whole pixels, by at most half of one.
    assert (w - 0.5) / (h + 0.5) <= 4 / 3
    assert (w + 0.5) / (h - 0.5) >= 3 / 4
    # In a very long image no box of that area has such a ratio; there it is the largest of such a ratio.
    largest = min(height, round(width * 4 / 3)) * min(width, round(height * 4 / 3))
    assert (w + 0.5) * (h + 0.5) >= least * width * height or w * h == largest


def test_boxes_are_spread_over_all_areas_ratios_and_places():
    random = generator(0)
    boxes = np.array([random_box(1000, 1000, 0.08, random) for _ in range(2000)], float)
    left, top, w, h = boxes.T
    # A box of share a fits when |log(w / h)| <= -log a, and is drawn again when it does not.
    shares = np.linspace(0.08, 1, 8 * 500 + 1)[:-1]
    fits = np.minimum(1, -np.log(shares) / math.log(4 / 3)).reshape(8, 500).sum(1)
    wanted = 2000 * fits / fits.sum()
    found, _ = np.histogram(w * h / 1e6, bins=8, range=(0.08, 1))
    assert np.all(np.abs(found - wanted) < 4 * np.sqrt(wanted))
    assert abs(np.log(w / h)).max() == pytest.approx(math.log(4 / 3), abs=0.02)
    assert np.log(w / h).mean() == pytest.approx(0, abs=0.02)
    inside = (w < 900) & (h < 900)
    for place in (left[inside] / (1000 - w[inside]), top[inside] / (1000 - h[inside])):
        assert np.all(np.histogram(place, bins=5, range=(0, 1))[0] > 0.15 * inside.sum())


@given(long=st.integers(100, 3000), seed=seeds)
def test_a_strip_gives_its_middle(long, seed):
    left, top, w, h = random_box(long, 12, 0.9, generator(seed))
    assert (top, w, h) == (0, 16, 12)
    assert abs(2 * left + w - long) <= 1


# ---- random views


@given(width=st.integers(9, 300), height=st.integers(9, 300), seed=seeds, flip=st.booleans())
def test_a_random_view_is_its_box_cut_out_scaled_and_mirrored(width, height, seed, flip):
    image = picture(width, height, seed % 7)
    seen = RandomView(16, 0.08, flip, Resampling.BILINEAR)(saved(image, "PNG"), generator(seed))
    random = generator(seed)
    left, top, w, h = random_box(width, height, 0.08, random)
    box = Image.fromarray(np.asarray(image)[top : top + h, left : left + w])
    wanted = np.asarray(box.resize((16, 16), Resampling.BILINEAR))
    if flip and random.random() < 0.5:
        wanted = wanted[:, ::-1]
    assert np.array_equal(np.asarray(seen), wanted)


@settings(max_examples=30)
@given(width=st.integers(200, 900), height=st.integers(200, 900), seed=seeds)
def test_a_jpeg_decoded_small_looks_like_one_decoded_in_full(width, height, seed):
    image = picture(width, height, seed % 7)
    view = RandomView(24, 0.08, True, Resampling.BILINEAR)
    jpeg = saved(image, "JPEG")
    seen = np.asarray(view(jpeg, generator(seed)), float)
    in_full = np.asarray(view(saved(image, "PNG"), generator(seed)), float)
    assert np.abs(seen - in_full).mean() < 4
    # What was decoded of the box is never enlarged.
    _, _, w, h = random_box(width, height, 0.08, generator(seed))
    assert jpeg.size[0] * w / width >= 24
    assert jpeg.size[1] * h / height >= 24


def test_every_other_view_is_mirrored():
    image = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))).convert("RGB")
    view = RandomView(8, 0.5, True, Resampling.BILINEAR)
    rising = sum(int(np.diff(np.asarray(view(image, generator(seed)), int)[0, :, 0]).mean() > 0) for seed in range(400))
    assert 160 < rising < 240


# ---- centre views


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    short=st.integers(16, 40),
    mode=st.sampled_from(["RGB", "L", "CMYK", "P"]),
    resampling=st.sampled_from([Resampling.BILINEAR, Resampling.BICUBIC]),
)
def test_a_centre_view_is_the_standard_resize_and_centre_crop(width, height, short, mode, resampling):
    image = picture(width, height).convert(mode)
    seen = np.asarray(CentreView(16, short, resampling)(image, generator(0)))
    # Resize(short) keeps the ratio and rounds the long side down; CenterCrop rounds its half margins to even.
    scaled = (max(short, short * width // height), max(short, short * height // width))
    whole = np.asarray(image.convert("RGB").resize(scaled, resampling))
    top, left = (int(np.rint((side - 16) / 2)) for side in whole.shape[:2])
    assert np.array_equal(seen, whole[top : top + 16, left : left + 16])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_centre_view_of_a_file_is_decoded_in_full(format):
    image = saved(picture(640, 480), format)
    seen = CentreView(24, 32, Resampling.BILINEAR)(image, generator(0))
    whole = saved(picture(640, 480), format).convert("RGB").resize((42, 32), Resampling.BILINEAR)
    assert seen == whole.crop((9, 4, 33, 28))
