"""Datasets: decoded as their formats say; missing, cut or altered files refused by name."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from msq.cache import cache_folder
from msq.errors import DataError, UsageError
from msq.framing import frame
from train import data
from train.data.augment import Augmentation
from train.data.decoded import DecodedDataset, input_of
from train.data.sets import cifar10, fashion_mnist, image_folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MSQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(cache, monkeypatch, tmp_path):
    """No apt, and sources that nobody listens at."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fashion_mnist, "SOURCE", "http://127.0.0.1:9/fashion")
    monkeypatch.setattr(cifar10, "SOURCE", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    return cache


def test_the_datasets_that_ship_are_found_by_name():
    assert data.names() == ["cifar10", "fashion-mnist", "image-folder", "imagenet"]
    assert data.data_set("image-folder") is image_folder


def test_an_unknown_dataset_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="unknown dataset 'fashion-mnits'") as caught:
        data.data_set("fashion-mnits")
    assert "fashion-mnist" in caught.value.hint


# ---- Dataset


def dataset(seed: int = 0) -> DecodedDataset:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (6, 4, 5, 3), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, 2, (6,), generator=random)
    return DecodedDataset("d", images, labels, images[:2], labels[:2], ("a", "b"), input_of(images), Augmentation())


def test_the_identity_of_a_dataset_depends_on_every_pixel_and_label():
    whole = dataset()
    assert whole.id() == dataset().id()
    assert (whole.id().train, whole.id().test) == (6, 2)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        other = dataset()
        changed = getattr(other, name).clone()
        changed.view(-1)[-1] ^= 1
        object.__setattr__(other, name, changed)
        assert other.id().sha256 != whole.id().sha256, name


def test_mean_and_deviation_are_those_of_the_pixels():
    images = dataset().train_images
    spec = input_of(images)
    pixels = images.double() / 255
    assert (spec.height, spec.width, spec.channels) == (4, 5, 3)
    assert spec.mean == pytest.approx(pixels.mean((0, 1, 2)).tolist(), abs=1e-4)
    assert spec.std == pytest.approx(pixels.std((0, 1, 2), correction=0).tolist(), abs=1e-4)


# ---- Fashion-MNIST


def idx(array: np.ndarray) -> bytes:
    """The idx format: two zero bytes, type 8 (uint8), number of dimensions, sizes, data."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def small_fashion(tmp_path, monkeypatch) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder of small idx files whose digests take the place of the published ones."""
    random = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": random.integers(0, 256, (7, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": random.integers(0, 10, 7, np.uint8),
        "t10k-images-idx3-ubyte": random.integers(0, 256, (3, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": random.integers(0, 10, 3, np.uint8),
    }
    folder = tmp_path / "fashion"
    folder.mkdir()
    for name, array in arrays.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    digests = {name: hashlib.sha256(idx(array)).hexdigest() for name, array in arrays.items()}
    monkeypatch.setattr(fashion_mnist, "FILES", digests)
    return folder, arrays


def test_fashion_files_are_decoded_gzipped_or_not(small_fashion):
    folder, arrays = small_fashion
    name = "train-images-idx3-ubyte"
    (folder / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    (folder / f"{name}.gz").unlink()
    found = fashion_mnist.load(fashion_mnist.Options(path=folder))
    assert np.array_equal(found.train_images[..., 0].numpy(), arrays[name])
    assert np.array_equal(found.train_labels.numpy(), arrays["train-labels-idx1-ubyte"])
    assert np.array_equal(found.test_images[..., 0].numpy(), arrays["t10k-images-idx3-ubyte"])
    assert found.train_images.shape == (7, 28, 28, 1)
    assert (found.train_images.dtype, found.train_labels.dtype) == (torch.uint8, torch.int64)
    assert len(found.labels) == 10


@pytest.mark.parametrize("name", list(fashion_mnist.FILES))
def test_an_altered_fashion_file_is_refused_by_name(small_fashion, name):
    folder, arrays = small_fashion
    arrays[name].flat[-1] ^= 1
    (folder / f"{name}.gz").write_bytes(gzip.compress(idx(arrays[name])))
    with pytest.raises(DataError, match=f"{name}.gz: altered or cut"):
        fashion_mnist.load(fashion_mnist.Options(path=folder))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_fashion_file_is_refused_by_name(small_fashion, kept):
    folder, _ = small_fashion
    path = folder / "t10k-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz"):
        fashion_mnist.load(fashion_mnist.Options(path=folder))


def test_fashion_files_in_the_cache_are_used_without_a_network(small_fashion, offline):
    folder, _ = small_fashion
    target = cache_folder("data", "fashion-mnist")
    target.parent.mkdir(parents=True)
    folder.rename(target)
    assert len(fashion_mnist.load(fashion_mnist.Options()).test_labels) == 3


def test_a_missing_fashion_file_is_named(small_fashion):
    folder, _ = small_fashion
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing"):
        fashion_mnist.load(fashion_mnist.Options(path=folder))


def test_without_apt_and_network_the_files_and_their_place_are_named(offline):
    with pytest.raises(DataError, match="could not be fetched") as caught:
        fashion_mnist.load(fashion_mnist.Options())
    place = cache_folder("data", "fashion-mnist")
    assert "apt" in str(caught.value)
    for name in fashion_mnist.FILES:
        assert f"{name}.gz" in caught.value.hint
    assert caught.value.hint.endswith(f"into {place}")
    assert list(place.parent.iterdir()) == []


@pytest.mark.skipif(not cache_folder("data", "fashion-mnist").is_dir(), reason="Fashion-MNIST is not in the cache")
def test_the_real_fashion_mnist_has_the_published_size_mean_and_balance():
    found = fashion_mnist.load(fashion_mnist.Options())
    assert (len(found.train_labels), len(found.test_labels)) == (60_000, 10_000)
    assert found.train_labels.bincount().tolist() == [6000] * 10
    assert input_of(found.train_images) == found.input


# ---- CIFAR-10


class OldPickler(pickle._Pickler):
    """Writes what Python 2 wrote: byte strings, the only kind it had; the published batches are such files."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value: bytes | str) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def batch(n: int, seed: int, old: bool = True) -> tuple[bytes, np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n, 3, 32, 32), np.uint8)
    labels = random.integers(0, 10, n).tolist()
    values = {b"batch_label": b"sample", b"labels": labels, b"data": images.reshape(n, -1)}
    if not old:
        return pickle.dumps(values, protocol=2), images, labels
    stream = io.BytesIO()
    OldPickler(stream, 2).dump(values)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"), images, labels


@pytest.fixture
def small_cifar(tmp_path, monkeypatch) -> Path:
    """cifar-10-batches-py with four images a batch, whose digests take the place of the published ones."""
    folder = tmp_path / "given" / cifar10.FOLDER
    folder.mkdir(parents=True)
    for digests in ("TRAIN_MD5", "TEST_MD5"):
        found = {}
        for name in getattr(cifar10, digests):
            content, _, _ = batch(4, seed=len(name) + ord(name[-1]))
            (folder / name).write_bytes(content)
            found[name] = hashlib.md5(content).hexdigest()
        monkeypatch.setattr(cifar10, digests, found)
    return folder


@pytest.mark.parametrize("old", [True, False], ids=["python 2", "python 3"])
def test_a_batch_is_decoded_to_rows_of_pixels_of_three_channels(old):
    content, planes, labels = batch(5, seed=1, old=old)
    images, found = cifar10.decode(content)
    assert images.shape == (5, 32, 32, 3)
    assert np.array_equal(images.numpy(), planes.transpose(0, 2, 3, 1))
    assert found.tolist() == labels


def test_a_folder_its_parent_and_an_archive_of_cifar_hold_the_same(small_cifar, tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as stream:
        stream.add(small_cifar, cifar10.FOLDER)
    ids = {cifar10.load(cifar10.Options(path=path)).id().sha256 for path in (small_cifar, small_cifar.parent, archive)}
    assert len(ids) == 1


def test_training_batches_follow_one_another(small_cifar):
    found = cifar10.load(cifar10.Options(path=small_cifar))
    assert (len(found.train_labels), len(found.test_labels)) == (20, 4)
    images, labels = cifar10.decode((small_cifar / "data_batch_2").read_bytes())
    assert torch.equal(found.train_images[4:8], images)
    assert torch.equal(found.train_labels[4:8], labels)


def test_an_altered_cifar_batch_is_refused_by_name(small_cifar):
    path = small_cifar / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="data_batch_3: altered or cut"):
        cifar10.load(cifar10.Options(path=small_cifar))


def test_a_missing_cifar_batch_is_named(small_cifar):
    (small_cifar / "test_batch").unlink()
    with pytest.raises(DataError, match="test_batch is missing"):
        cifar10.load(cifar10.Options(path=small_cifar))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_cut_cifar_archive_is_refused_by_name(small_cifar, tmp_path, kept):
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as stream:
        stream.add(small_cifar, cifar10.FOLDER)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match=r"cifar\.tar\.gz"):
        cifar10.load(cifar10.Options(path=archive))


def test_a_pickle_that_would_run_code_is_refused_without_running_it(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    with pytest.raises(DataError, match="mkdir"):
        cifar10.decode(pickle.dumps({b"data": Attack(), b"labels": []}))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"no pickle", pickle.dumps([1]), pickle.dumps({b"data": 1})])
def test_a_file_that_is_no_batch_is_refused(content):
    with pytest.raises(DataError, match="not a CIFAR-10 batch"):
        cifar10.decode(content)


def test_without_a_network_the_archive_of_cifar_and_its_place_are_named(offline):
    with pytest.raises(DataError, match="could not be fetched") as caught:
        cifar10.load(cifar10.Options())
    assert str(cache_folder("data", "cifar-10", "cifar-10-python.tar.gz")) in caught.value.hint


# ---- image folder


@pytest.fixture
def tree(tmp_path, cache) -> Path:
    """Two classes of small PNG and JPEG images, of several sizes and kinds."""
    random = np.random.default_rng(0)
    root = tmp_path / "pets"
    for part, label, name, shape in [
        ("train", "cat", "0.png", (8, 8, 3)),
        ("train", "cat", "1.PNG", (8, 8)),
        ("train", "dog", "0.jpg", (20, 10, 3)),
        ("train", "dog", "1.png", (9, 30, 4)),
        ("test", "cat", "0.png", (8, 8, 3)),
        ("test", "dog", "0.jpeg", (8, 8, 3)),
    ]:
        (root / part / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(root / part / label / name)
    (root / "train" / "cat" / "notes.txt").write_text("not an image, and not taken for one")
    return root


def options(tree: Path, **changes: object) -> image_folder.Options:
    return image_folder.Options.model_validate({"path": tree, "height": 8, "width": 8} | changes)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_framing_that_is_kept_gives_what_was_trained_on(tree, channels):
    found = image_folder.load(options(tree, channels=channels))
    for index, name in enumerate(("cat/0.png", "cat/1.PNG", "dog/0.jpg", "dog/1.png")):
        with Image.open(tree / "train" / name) as image:
            assert np.array_equal(frame(image, found.input), found.train_images[index].numpy())
    own = found.input.model_copy(update={"framing": None})
    with (
        Image.open(tree / "train/dog/0.jpg") as image,
        pytest.raises(DataError, match="10 × 20 pixels, for a model of 8"),
    ):
        frame(image, own)
    with Image.open(tree / "train/cat/0.png") as image:
        assert np.array_equal(frame(image, own), found.train_images[0].numpy())


def test_a_tree_of_images_becomes_arrays_with_a_label_per_folder(tree):
    found = image_folder.load(options(tree))
    assert found.labels == ("cat", "dog")
    assert found.train_labels.tolist() == [0, 0, 1, 1]
    assert found.test_labels.tolist() == [0, 1]
    assert found.train_images.shape == (4, 8, 8, 3)
    pixels = np.asarray(Image.open(tree / "train/cat/0.png"))
    assert np.array_equal(found.train_images[0].numpy(), pixels)


def test_grey_images_have_one_channel(tree):
    assert image_folder.load(options(tree, channels=1)).train_images.shape == (4, 8, 8, 1)


def test_an_image_is_cut_around_its_centre(tree):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    Image.fromarray(wide).save(tree / "train/cat/0.png")
    assert (image_folder.load(options(tree)).train_images[0] == 200).all()


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "cut"])
def test_an_unreadable_image_is_named_and_nothing_is_cached(tree, cache, content):
    path = tree / "train" / "dog" / "0.jpg"
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    with pytest.raises(DataError, match=r"dog/0\.jpg: not a readable image"):
        image_folder.load(options(tree))
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_decoded_images_come_from_the_cache_until_a_file_changes(tree):
    path = tree / "train" / "cat" / "0.png"
    status = path.stat()
    first = image_folder.load(options(tree))
    # The same name, size and time: not looked at again, or it would be refused.
    path.write_bytes(b"\0" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert image_folder.load(options(tree)).id() == first.id()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(DataError, match=r"cat/0\.png"):
        image_folder.load(options(tree))


def test_a_class_that_is_only_tested_is_refused(tree):
    (tree / "test" / "horse").mkdir()
    with pytest.raises(DataError, match="class 'horse'"):
        image_folder.load(options(tree))


def test_a_missing_part_is_named(tree):
    with pytest.raises(DataError, match="validation: no such folder"):
        image_folder.load(options(tree, test="validation"))


def test_a_folder_without_images_is_refused(tmp_path, cache):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="train: no images"):
        image_folder.load(options(tmp_path))
