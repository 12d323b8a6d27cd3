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
from pydantic import Field
from rich.console import Console
from rich.progress import track

from msq.artefact import Strict
from msq.atomic import atomic_folder
from msq.cache import cache_folder
from msq.checkpoint import Framing, InputSpec
from msq.framing import frame, readable
from train.data.augment import Augmentation
from train.data.decoded import DecodedDataset, input_of
from train.data.tree import File, classes, image_files

FRAMING = Framing(upright=True)


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


def load(options: Options) -> DecodedDataset:
    """Return the images of a tree. The classes are the folders of the training part, sorted.

    Raises:
        DataError: a folder is missing or empty, has a class that was not trained on, or an image is unreadable.
    """
    labels = classes(options.path / options.train)
    train = image_files(options.path / options.train, labels)
    test = image_files(options.path / options.test, labels)
    folder = cache_folder("data", "image-folder", _digest(options, {options.train: train, options.test: test}))
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            _decode(options.path / options.train, train, options, temporary / "train.npy")
            _decode(options.path / options.test, test, options, temporary / "test.npy")
    train_images = torch.from_numpy(np.load(folder / "train.npy"))
    return DecodedDataset(
        name=options.path.name,
        train_images=train_images,
        train_labels=_labels(train),
        test_images=torch.from_numpy(np.load(folder / "test.npy")),
        test_labels=_labels(test),
        labels=labels,
        input=input_of(train_images).model_copy(update={"framing": FRAMING}),
        augmentation=Augmentation(options.padding, options.flip, options.cutout),
    )


def _labels(files: Sequence[File]) -> torch.Tensor:
    return torch.tensor([file.label for file in files], dtype=torch.int64)


def _digest(options: Options, parts: dict[str, list[File]]) -> str:
    """Return what changes when the decoded arrays might."""
    digest = hashlib.sha256(f"{options.height} {options.width} {options.channels}\n".encode())
    for part, files in parts.items():
        for file in files:
            path = (options.path / part / file.name).absolute()
            digest.update(f"{path}\0{file.size}\0{file.modified}\n".encode())
    return digest.hexdigest()[:32]


def _decode(folder: Path, files: Sequence[File], options: Options, into: Path) -> None:
    """Decode all files by a pool of threads (Pillow decodes outside Python's lock) into one array file."""
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(lambda file: _image(folder / file.name, options), files)
        title = f"decoding {folder.name}"
        images = list(track(decoded, title, total=len(files), console=Console(stderr=True), transient=True))
    np.save(into, np.stack(images))


def _image(file: Path, options: Options) -> NDArray[np.uint8]:
    """Return an image, uint8 (height, width, channels), turned upright as its EXIF data say."""
    nothing = (0.0,) * options.channels
    size = {"height": options.height, "width": options.width, "channels": options.channels}
    with readable(file) as image:
        return frame(image, InputSpec(**size, mean=nothing, std=nothing, framing=FRAMING))
