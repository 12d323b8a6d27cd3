"""Fashion-MNIST (arXiv 1708.07747): 28×28 grey images of clothing, 60,000 to train and 10,000 to test.

Taken from `path`, else from the cache, else fetched: as the package dataset-fashion-mnist where apt is (needs no
root), else from the project's repository. Whatever the way, the content is checked against its sha256.
"""

import gzip
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msq import apt
from msq.artefact import Strict
from msq.atomic import atomic_folder
from msq.cache import cache_folder
from msq.checkpoint import InputSpec
from msq.errors import DataError
from train.data.augment import Augmentation
from train.data.decoded import DecodedDataset
from train.data.fetch import fetch, verify

PACKAGE = "dataset-fashion-mnist"
SOURCE = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"

FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Sha256 of the decompressed files."""

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
INPUT = InputSpec(height=28, width=28, channels=1, mean=(0.286,), std=(0.353,))


class Options(Strict):
    """path: folder with the four idx files, gzipped or not; None is the cache, filled when empty."""

    path: Path | None = None


def load(options: Options) -> DecodedDataset:
    """Return Fashion-MNIST.

    Raises:
        DataError: a file is missing, cut or altered, or nothing could be fetched; the message says which file.
    """
    folder = options.path or cache_folder("data", "fashion-mnist")
    if not any(folder.glob("*-ubyte*")):
        if options.path:
            raise _missing(folder, "no such files")
        _fill(folder)
    train_images, train_labels, test_images, test_labels = (_read(folder, name) for name in FILES)
    return DecodedDataset(
        name="fashion-mnist",
        train_images=train_images.unsqueeze(-1),
        train_labels=train_labels.long(),
        test_images=test_images.unsqueeze(-1),
        test_labels=test_labels.long(),
        labels=LABELS,
        input=INPUT,
        augmentation=Augmentation(padding=2, flip=True),
    )


def _read(folder: Path, name: str) -> Tensor:
    """Return an idx file's array, uint8."""
    content = _content(folder, name)
    # An idx file is a magic number whose last byte is the number of dimensions, these as big-endian uint32, the data.
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy())


def _content(folder: Path, name: str) -> bytes:
    """Return a file's verified content, decompressed."""
    path = folder / name
    if not path.is_file():
        path = folder / f"{name}.gz"
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise _missing(folder, f"{name} is missing") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: cut or not gzip: {error}", hint="delete the file, then fetch it again") from None
    verify(content, FILES[name], str(path))
    return content


def _fill(folder: Path) -> None:
    """Put the four files into the cache, all or none."""
    with atomic_folder(folder) as temporary:
        failures = []
        for way in (_from_apt, _from_source):
            try:
                way(temporary)
                for name in FILES:
                    _content(temporary, name)
            except (apt.AptError, DataError) as error:
                failures.append(str(error))
            else:
                return
        raise _missing(folder, "could not be fetched: " + "; ".join(failures))


def _from_apt(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        private = apt.PrivateApt(scratch / "apt")
        private.update()
        for package in private.download([PACKAGE], scratch / "debs"):
            apt.extract(package, scratch / "root")
        for file in (scratch / "root/usr/share/datasets/fashion-mnist").glob("*-ubyte.gz"):
            shutil.copyfile(file, folder / file.name)


def _from_source(folder: Path) -> None:
    for file in FILES:
        fetch(f"{SOURCE}/{file}.gz", folder / f"{file}.gz")


def _missing(folder: Path, why: str) -> DataError:
    wanted = ", ".join(f"{file}.gz" for file in FILES)
    return DataError(f"Fashion-MNIST in {folder}: {why}", hint=f"download {wanted} from {SOURCE} into {folder}")
