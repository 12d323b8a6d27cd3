"""Worker processes that turn image files into batches of pixels, the same ones however many workers there are."""

import gc
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from msq.errors import DataError
from msq.framing import readable
from train.data.order import entropy

Key = tuple[int, int, int, list[int]]
"""A batch: its part, the seed and the epoch, and the numbers of its images."""

_Pool = tuple[list[Key], DataLoader[Any]]
"""What a set of workers is to do next, and the workers."""


class View(Protocol):
    """What is seen of an image: RGB, size × size."""

    @property
    def size(self) -> int:
        """Pixels of a side."""
        ...

    def __call__(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        """Return it, given an image that is not decoded yet."""
        ...


@dataclass(frozen=True)
class Part:
    """Image files, and what is seen of them.

    names, relative to the folder, are bytes in one array: a worker that counts references to a million Python objects
    would soon have a copy of them all.
    """

    folder: Path
    names: NDArray[np.bytes_]
    view: View

    def pixels(self, index: int, random: np.random.Generator) -> NDArray[np.uint8]:
        """Return image `index`, uint8 (size, size, 3). Raises DataError."""
        with readable(self.folder / os.fsdecode(self.names[index])) as image:
            return np.asarray(self.view(image, random))


class Decoders:
    """Workers that decode the images of some parts. They start when first needed, then wait for the next iteration.

    Args:
        parts: what can be decoded. workers: processes; 0 decodes in this one.
    """

    def __init__(self, parts: Sequence[Part], workers: int) -> None:
        self._decoding = _Decoding(parts)
        self._workers = workers
        self._started: list[_Pool] = []
        self._idle: list[_Pool] = []
        # Held from outside, workers are told to stop even where this object is found dead in a circle of references
        # (Lightning leaves such): a queue in that circle would be closed before the word to stop goes through it.
        weakref.finalize(self, self._started.clear)

    def batches(self, keys: Sequence[Key]) -> Iterator[Tensor]:
        """Yield the images of every key, uint8 (n, size, size, 3). Iterations inside one another have own workers.

        Raises:
            DataError: an image is unreadable, or a worker died.
        """
        wanted, loader = self._idle.pop() if self._idle else self._start()
        wanted[:] = keys
        try:
            for decoded in loader:
                if isinstance(decoded, DataError):
                    # A new one, as that in this frame would hold the frame, and with it the workers.
                    raise DataError(str(decoded), hint=decoded.hint)
                yield decoded
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise DataError(
                "a process that decodes images died, most likely for want of memory or of space in /dev/shm",
                hint="lower data.workers, or give the container more shared memory",
            ) from None
        finally:
            self._idle.append((wanted, loader))

    def _start(self) -> _Pool:
        keys: list[Key] = []
        loader: DataLoader[Any] = DataLoader(
            self._decoding,
            batch_size=None,
            sampler=keys,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            worker_init_fn=_leave_alone_what_was_inherited,
            # Its own generator: the training's is left alone.
            generator=torch.Generator(),
        )
        self._started.append((keys, loader))
        return keys, loader


def _leave_alone_what_was_inherited(worker: int) -> None:
    """Keep a forked worker from collecting its parent's garbage: that copies memory, and may stop other workers."""
    gc.freeze()


class _Decoding(TorchDataset[Any]):
    """What a worker does."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)

    def __getitem__(self, key: Key) -> Tensor | DataError:
        part, seed, epoch, indices = key
        chosen = self._parts[part]
        images = torch.empty((len(indices), chosen.view.size, chosen.view.size, 3), dtype=torch.uint8)
        pixels = images.numpy()
        try:
            for row, index in enumerate(indices):
                pixels[row] = chosen.pixels(index, np.random.default_rng(entropy("augmentation", seed, epoch, index)))
        except DataError as error:
            # Handed over as a value, for torch would wrap what is raised here into the worker's traceback.
            return error
        return images
