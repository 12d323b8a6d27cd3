"""A folder of images with a folder per class: which classes and images there are, and how an image is opened."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from msq.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class File(NamedTuple):
    """An image file: its name CLASS/IMAGE, the class's label, its size in bytes and its time in nanoseconds."""

    name: str
    label: int
    size: int
    modified: int


def classes(folder: Path) -> tuple[str, ...]:
    """Return the classes of a folder, sorted. Raises DataError where there is no such folder, or no class in it."""
    hint = "data.path holds a folder to train on and one to test on, each with a folder per class, full of images"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", hint=hint)
    found = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if not found:
        raise DataError(f"{folder}: no class folders", hint=hint)
    return found


def image_files(folder: Path, labels: Sequence[str]) -> list[File]:
    """Return the image files of all classes, in an order that does not depend on the file system.

    Raises:
        DataError: there is no image, or a class that is not among `labels`.
    """
    if strange := set(classes(folder)) - set(labels):
        raise DataError(
            f"{folder}: class {min(strange)!r} is not among the classes trained on",
            hint="remove its folder, or add one to the training part",
        )
    files: list[File] = []
    title = f"listing {folder.name}"
    for label, name in enumerate(track(labels, title, console=Console(stderr=True), transient=True)):
        if not (folder / name).is_dir():
            continue
        with os.scandir(folder / name) as entries:
            images = [entry for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES]
        for entry in sorted(images, key=lambda entry: entry.name):
            try:
                status = entry.stat()
            except FileNotFoundError:
                raise DataError(f"{entry.path}: a link to a file that is not there") from None
            files.append(File(f"{name}/{entry.name}", label, status.st_size, status.st_mtime_ns))
    if not files:
        raise DataError(f"{folder}: no images", hint=f"it holds CLASS/IMAGE, with one of {', '.join(sorted(SUFFIXES))}")
    return files
