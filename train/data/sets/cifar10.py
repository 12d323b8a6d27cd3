"""CIFAR-10 (Krizhevsky 2009): 32×32 colour images of ten classes, 50,000 to train and 10,000 to test.

Taken from `path`, else from the cache, else fetched from the author's site; the content of every file is checked
against its published digest.
"""

import codecs
import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from msq.artefact import Strict
from msq.cache import cache_folder
from msq.checkpoint import InputSpec
from msq.errors import DataError
from train.data.augment import Augmentation
from train.data.decoded import DecodedDataset
from train.data.fetch import fetch, verify

ARCHIVE = "cifar-10-python.tar.gz"
SOURCE = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
FOLDER = "cifar-10-batches-py"

TRAIN_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
TEST_MD5 = {"test_batch": "40351d587109b95175f43aff81a1287e"}

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
INPUT = InputSpec(height=32, width=32, channels=3, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))


class Options(Strict):
    """path: the folder cifar-10-batches-py, or cifar-10-python.tar.gz; None is the cache, filled when empty."""

    path: Path | None = None


def load(options: Options) -> DecodedDataset:
    """Return CIFAR-10.

    Raises:
        DataError: a file is missing, cut or altered, or cannot be fetched; the message says which file.
    """
    path = options.path or cache_folder("data", "cifar-10", ARCHIVE)
    if not path.exists():
        if options.path:
            raise _missing(path, "no such folder or file")
        try:
            fetch(SOURCE, path, ARCHIVE_SHA256)
        except DataError as error:
            raise _missing(path, f"could not be fetched: {error}") from None
    files = _files(path, [*TRAIN_MD5, *TEST_MD5])
    train_images, train_labels = _read(path, files, TRAIN_MD5)
    test_images, test_labels = _read(path, files, TEST_MD5)
    return DecodedDataset(
        name="cifar10",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        labels=LABELS,
        input=INPUT,
        augmentation=Augmentation(padding=4, flip=True),
    )


def decode(content: bytes) -> tuple[Tensor, Tensor]:
    """Return the images, uint8 (n, 32, 32, 3), and the labels, int64 (n,), of a python batch file.

    Nothing in the file can run code.

    Raises:
        DataError: it is no batch of CIFAR-10.
    """
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        planes = torch.from_numpy(np.array(batch[b"data"], np.uint8)).reshape(-1, 3, 32, 32)
        labels = torch.tensor(batch[b"labels"], dtype=torch.int64)
    except (pickle.UnpicklingError, KeyError, TypeError, ValueError, RuntimeError, EOFError) as error:
        raise DataError(f"not a CIFAR-10 batch: {error}") from None
    return planes.permute(0, 2, 3, 1).contiguous(), labels


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers, and refuses to look up anything else."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _read(path: Path, files: Mapping[str, bytes], digests: Mapping[str, str]) -> tuple[Tensor, Tensor]:
    for name, md5 in digests.items():
        verify(files[name], md5, f"{path}/{name}", "md5")
    images, labels = zip(*(decode(files[name]) for name in digests), strict=True)
    return torch.cat(images), torch.cat(labels)


def _files(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the content of the named files of a folder, or of an archive, without unpacking it onto the disk."""
    try:
        if path.is_dir():
            folder = path / FOLDER if (path / FOLDER).is_dir() else path
            return {name: (folder / name).read_bytes() for name in names}
        with tarfile.open(path) as archive:
            members = ((name, archive.extractfile(f"{FOLDER}/{name}")) for name in names)
            return {name: stream.read() for name, stream in members if stream}
    except FileNotFoundError as error:
        raise _missing(path, f"{Path(error.filename).name} is missing") from None
    except KeyError as error:
        raise _missing(path, str(error.args[0])) from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise _missing(path, f"cut or not a tar archive: {error}") from None


def _missing(path: Path, why: str) -> DataError:
    return DataError(f"CIFAR-10 in {path}: {why}", hint=f"download {SOURCE} to {path}, or set data.path to it")
