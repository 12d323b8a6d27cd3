"""ImageNet, or any tree train/CLASS/IMAGE and val/CLASS/IMAGE, of any size: images are read while they are used.

Training sees random parts of images, testing their centres, as ImageNet's nets are commonly trained and judged.
"""

import hashlib
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Resampling
from pydantic import Field, model_validator

from msq.artefact import Strict
from msq.checkpoint import Framing, InputSpec
from msq.errors import DataError
from train.data.decoders import Decoders, Part
from train.data.stream import StreamedDataset
from train.data.tree import File, classes, image_files
from train.data.views import CentreView, RandomView

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Options(Strict):
    """path holds a folder for training and one for testing (`train`, `test`), each with a folder per class.

    size: side of what is seen of an image, pixels. resize: pixels the short side is brought to before the centre is
    cut out. crop: least share of an image that training sees. flip: training mirrors every other image. mean, std: of
    pixels in [0, 1], by channel. test_images: most images that are tested and kept. workers: processes that decode.
    """

    path: Path
    size: int = Field(224, ge=1)
    resize: int = Field(256, ge=1)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: float = Field(0.08, gt=0, le=1)
    flip: bool = True
    mean: tuple[Share, Share, Share] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    train: str = "train"
    test: str = "val"
    test_images: int = Field(5000, ge=1)
    workers: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _centre_lies_inside(self) -> Self:
        if self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) is less than size ({self.size})")
        return self


def load(options: Options) -> StreamedDataset:
    """Return the images of a tree. The classes are the folders of the training part, sorted.

    Raises:
        DataError: a folder is missing, a class has no images, or one was not trained on.
    """
    labels = classes(options.path / options.train)
    train = _files(options.path / options.train, labels)
    test = chosen(_files(options.path / options.test, labels), options.test_images)
    resampling = Resampling[options.interpolation.upper()]
    random = RandomView(options.size, options.crop, options.flip, resampling)
    centre = CentreView(options.size, options.resize, resampling)
    parts = (
        Part(options.path / options.train, _names(train), random),
        Part(options.path / options.test, _names(test), centre),
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return StreamedDataset(
        name=options.path.name,
        decoders=Decoders(parts, min(8, cores) if options.workers is None else options.workers),
        train_labels=torch.tensor([file.label for file in train], dtype=torch.int64),
        test_labels=torch.tensor([file.label for file in test], dtype=torch.int64),
        labels=labels,
        input=InputSpec(
            height=options.size,
            width=options.size,
            channels=3,
            mean=options.mean,
            std=options.std,
            framing=Framing(short=options.resize, resampling=options.interpolation),
        ),
        sha256=_digest({"train": train, "test": test}),
    )


def chosen(files: Sequence[File], most: int) -> list[File]:
    """Return at most that many files, dealt out class by class: every prefix has of all classes alike, while they last.

    Which file of a class comes first is decided by the sha256 of its name, as names may be in order of time or place;
    so the same files are chosen on every machine.
    """
    by_class: dict[int, list[File]] = {}
    for file in sorted(files, key=lambda file: hashlib.sha256(os.fsencode(file.name)).digest()):
        by_class.setdefault(file.label, []).append(file)
    rounds = zip_longest(*by_class.values())
    return [file for dealt in rounds for file in dealt if file is not None][:most]


def _files(folder: Path, labels: Sequence[str]) -> list[File]:
    files = image_files(folder, labels)
    if lacking := set(range(len(labels))) - {file.label for file in files}:
        raise DataError(
            f"{folder / labels[min(lacking)]}: no images of this class", hint="every class has some in both parts"
        )
    return files


def _names(files: Sequence[File]) -> NDArray[np.bytes_]:
    return np.array([os.fsencode(file.name) for file in files])


def _digest(parts: dict[str, list[File]]) -> str:
    """Return a sha256 over the sorted names and sizes in bytes of the files used."""
    digest = hashlib.sha256()
    for part, files in parts.items():
        for file in sorted(files):
            digest.update(os.fsencode(f"{part}/{file.name}\0{file.size}\n"))
    return digest.hexdigest()
