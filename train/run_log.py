"""The log of a phase: loss and learning rate of every step, and what its method shows, as TensorBoard events.

To read a number off an accelerator is to wait for it. So losses stay there, and are read, checked and written `EVERY`
steps at a time.
"""

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from msq.checkpoint import EpochRecord
from msq.errors import TrainingError
from train.events import EventFile
from train.schedule import Phase

EVERY = 50
LAST = "last.ckpt"
"""Lightning's checkpoint of the last whole epoch, in the phase's folder."""


class RunLog:
    """What happens in one phase. Steps count from 1, over all its epochs.

    Args:
        phase: its name, epochs and scalars. folder: the phase's, for the event file.
        writes: off: only check the losses, as all but one of the processes that train together do.
    """

    def __init__(self, phase: Phase, folder: Path, writes: bool) -> None:
        self._phase, self._folder, self._writes = phase, folder, writes
        self._events: EventFile | None = None
        self.stretches: list[float] = []
        """Mean milliseconds of a step, for every stretch of steps between two readings."""
        self._step = self._epoch = 0
        self._unread: list[tuple[float, Tensor]] = []
        self._losses: list[float] = []
        self._drawn: Mapping[str, float] = {}
        self._began = 0.0

    @property
    def step_ms(self) -> float | None:
        """Median milliseconds of a step; None before the first reading."""
        return statistics.median(self.stretches) if self.stretches else None

    def begin(self, steps: int) -> None:
        """Go on after `steps` steps; what a stopped run wrote of later ones is struck out. Raises StorageError."""
        self._step = steps
        if self._writes:
            self._events = EventFile(self._folder, purge_step=steps + 1)

    def begin_epoch(self, epoch: int) -> None:
        """Begin an epoch, counted from 0."""
        self._epoch, self._losses, self._began = epoch, [], time.monotonic()

    def add(self, loss: Tensor, learning_rate: float) -> None:
        """Take down the loss of the present step, a scalar on any device."""
        self._unread.append((learning_rate, loss.detach()))

    def end_step(self) -> None:
        """End the step. Raises TrainingError where a loss read now is not finite, StorageError."""
        self._step += 1
        scalars = self._phase.scalars()
        if scalars != self._drawn:
            self._drawn = dict(scalars)
            self._draw(self._drawn, self._step)
        if len(self._unread) == EVERY:
            self._read()

    def end_epoch(self) -> float:
        """Return the epoch's mean loss. Raises TrainingError where a loss was not finite."""
        self._read()
        return sum(self._losses) / len(self._losses)

    def record(self, record: EpochRecord) -> None:
        """Write an epoch's record, and all before it to the disk. Raises StorageError."""
        self._draw({"epoch/loss": record.loss, "epoch/average_bits": record.average_bits}, self._step)
        self._flush()

    def close(self) -> None:
        """Close the event file, if one was begun. Raises StorageError."""
        if self._events:
            self._events.close()

    def _read(self) -> None:
        unread, self._unread = self._unread, []
        if not unread:
            return
        losses = torch.stack([loss for _, loss in unread]).tolist()
        now = time.monotonic()
        self.stretches.append(1000 * (now - self._began) / len(unread))
        self._began = now
        self._losses += losses
        first = self._step - len(unread) + 1
        for step, ((rate, _), loss) in enumerate(zip(unread, losses, strict=True), first):
            self._draw({"loss": loss, "learning_rate": rate}, step)
        wrong = next((step for step, loss in enumerate(losses, first) if not math.isfinite(loss)), None)
        if wrong is not None:
            self._flush()
            raise self._not_finite(wrong, losses[wrong - first])

    def _not_finite(self, step: int, loss: float) -> TrainingError:
        last = self._folder / LAST
        kept = f"epoch {self._epoch} is kept in {last}" if last.is_file() else "no epoch before it was finished"
        return TrainingError(
            f"the loss of the {self._phase.name} phase is {loss} at step {step}, "
            f"in epoch {self._epoch + 1} of {self._phase.epochs}",
            hint=f"lower the phase's learning_rate; {kept}",
        )

    def _draw(self, scalars: Mapping[str, float], step: int) -> None:
        if self._events:
            self._events.add(scalars, step)

    def _flush(self) -> None:
        if self._events:
            self._events.flush()
