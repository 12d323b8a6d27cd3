"""Any tree of images with a folder per class: train/CLASS/*.jpg and test/CLASS/*.jpg.

Images are scaled so that they cover height × width, and cut to it around the centre. They are decoded once; the
arrays are kept in the cache for as long as no name, size or time of a file changes.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field
from rich.console import Console
from rich.progress import track

from msq.artefact import Strict
from msq.atomic import atomic_folder
from msq.cache import cache_folder
from msq.errors import DataError
from train.data.augment import Augmentation
from train.data.dataset import Dataset, input_of

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class Options(Strict):
    """path holds a folder for training and one for testing (`train`, `test`), each with a folder per class.

    height, width: pixels an image is brought to. channels: 3 for colour, 1 for grey. padding, flip and cutout are
    the augmentation in training.
    """

    path: Path
    height: int = Field(32, ge=1)
    width: int = Field(32, ge=1)
    channels: Literal[1, 3] = 3
    train: str = "train"
    test: str = "test"
    padding: int = Field(4, ge=0)
    flip: bool = True
    cutout: int = Field(0, ge=0)


def load(options: Options) -> Dataset:
    """Return the images of a tree. The classes are the folders of the training part, sorted.

    Raises:
        DataError: a folder is missing or empty, has a class that was not trained on, or an image is unreadable.
    """
    labels = _classes(options.path / options.train)
    train = _files(options.path / options.train, labels)
    test = _files(options.path / options.test, labels)
    folder = cache_folder("data", "image-folder", _digest(options, [*train, *test]))
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            _decode(train, options, temporary / "train.npy")
            _decode(test, options, temporary / "test.npy")
    train_images = torch.from_numpy(np.load(folder / "train.npy"))
    return Dataset(
        name=options.path.name,
        train_images=train_images,
        train_labels=_labels(train, labels),
        test_images=torch.from_numpy(np.load(folder / "test.npy")),
        test_labels=_labels(test, labels),
        labels=labels,
        input=input_of(train_images),
        augmentation=Augmentation(options.padding, options.flip, options.cutout),
    )


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", hint="data.path holds train/CLASS/IMAGE and test/CLASS/IMAGE")
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))


def _files(folder: Path, labels: Sequence[str]) -> list[Path]:
    """Return the image files of all classes, in an order that does not depend on the file system."""
    if strange := set(_classes(folder)) - set(labels):
        raise DataError(f"{folder}: class {min(strange)!r} is not among the classes trained on")
    files = [file for label in labels for file in sorted((folder / label).glob("*")) if file.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{folder}: no images", hint=f"it holds CLASS/IMAGE, with one of {', '.join(sorted(SUFFIXES))}")
    return files


def _labels(files: Sequence[Path], labels: Sequence[str]) -> torch.Tensor:
    return torch.tensor([labels.index(file.parent.name) for file in files], dtype=torch.int64)


def _digest(options: Options, files: Sequence[Path]) -> str:
    """Return what changes when the decoded arrays might."""
    digest = hashlib.sha256(f"{options.height} {options.width} {options.channels}\n".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _decode(files: Sequence[Path], options: Options, into: Path) -> None:
    """Decode all files by a pool of threads (Pillow decodes outside Python's lock) into one array file."""
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(lambda file: _image(file, options), files)
        title = f"decoding {files[0].parent.parent.name}"
        images = list(track(decoded, title, total=len(files), console=Console(stderr=True), transient=True))
    np.save(into, np.stack(images))


def _image(file: Path, options: Options) -> NDArray[np.uint8]:
    """Return an image, uint8 (height, width, channels), turned upright as its EXIF data say."""
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB" if options.channels == 3 else "L")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable image: {error}", hint="mend or remove the file") from None
    if upright.size != (options.width, options.height):
        upright = ImageOps.fit(upright, (options.width, options.height), Image.Resampling.BILINEAR)
    return np.asarray(upright, np.uint8).reshape(options.height, options.width, options.channels)
