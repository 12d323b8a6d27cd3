"""The Lightning module that trains an image classifier, float or quantized, through one phase."""

import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softmax
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from msq.checkpoint import EpochRecord
from train.data.dataset import Batches
from train.quantize import QuantizedModel
from train.run_log import RunLog
from train.schedule import Phase

Batch = tuple[Tensor, Tensor]
TEMPERATURE = 4.0
"""Softens the answers in distillation (Hinton, arXiv 1503.02531, section 2)."""


class Classifier(L.LightningModule):
    """Cross entropy, SGD with Nesterov momentum, the phase's learning rate.

    Args:
        net: x float32 (N, C, H, W) → logits (N, classes).
        phase: how to train. loader: the training batches.
        seed: with the epoch it decides all randomness, so that an epoch can be redone exactly.
        log: is told every step's loss. say: is told every epoch's record, and the seconds all epochs took so far.
        teacher: the float net, for a phase that distils.
    """

    def __init__(
        self,
        net: nn.Module,
        phase: Phase,
        loader: Batches,
        seed: int,
        log: RunLog,
        say: Callable[[EpochRecord, float], None],
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self._log, self._say = log, say
        self.net, self._phase, self._loader, self._seed = net, phase, loader, seed
        # In a list, the teacher is neither trained nor saved as a part of this module.
        self._teachers = [teacher.eval()] if teacher is not None and phase.distillation else []
        self.history: list[EpochRecord] = []
        self.seconds = 0.0
        self.began = False
        """Whether a step may have been taken: what an earlier run had saved is loaded."""
        self._epoch_began = 0.0

    @property
    def _teacher(self) -> nn.Module | None:
        return self._teachers[0].to(self.device) if self._teachers else None

    def loss(self, batch: Batch) -> Tensor:
        """Return the task loss of a batch, a scalar."""
        images, labels = batch
        logits = self.net(images).float()
        loss = cross_entropy(logits, labels, label_smoothing=self._phase.label_smoothing)
        if self._teacher is None:
            return loss
        with torch.no_grad():
            wanted = softmax(self._teacher(images).float() / TEMPERATURE, 1)
        share = self._phase.distillation
        return (1 - share) * loss + share * TEMPERATURE**2 * cross_entropy(logits / TEMPERATURE, wanted)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss, and log it."""
        loss = self.loss(batch)
        self._log.add(loss, self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_train_start(self) -> None:
        """Begin the log where a run that was stopped left off."""
        self.began = True
        self._log.begin(self.trainer.global_step)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """End the step of the log, after the method's own end of it. Raises TrainingError, see RunLog."""
        self._log.end_step()

    def on_train_epoch_start(self) -> None:
        """Make the epoch's order, augmentation and dropout a function of (seed, epoch)."""
        self._loader.set_epoch(self.current_epoch)
        torch.manual_seed(self._seed * 100_003 + self.current_epoch)
        self._log.begin_epoch(self.current_epoch)
        self._epoch_began = time.monotonic()

    def on_train_epoch_end(self) -> None:
        """Record the epoch. Raises TrainingError where a loss was not finite."""
        mean = self._log.end_epoch()
        quantized = self.net if isinstance(self.net, QuantizedModel) else None
        self.history.append(
            EpochRecord(
                phase=self._phase.name,
                epoch=self.current_epoch,
                loss=mean,
                average_bits=quantized.average_bits if quantized else 32.0,
                bits=quantized.bits() if quantized else {},
            )
        )
        self.seconds += time.monotonic() - self._epoch_began
        self._log.record(self.history[-1])
        self._say(self.history[-1], self.seconds)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return SGD and the phase's schedule. Scales, batch norms and biases are not decayed."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": self._phase.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimizer = SGD(groups, self._phase.learning_rate, momentum=0.9, nesterov=True)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, lambda step: self._phase.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Keep the history with the weights."""
        checkpoint["history"] = [record.model_dump() for record in self.history]
        checkpoint["seconds"], checkpoint["stretches"] = self.seconds, self._log.stretches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history up."""
        self.history = [EpochRecord.model_validate(record) for record in checkpoint["history"]]
        self.seconds, self._log.stretches = checkpoint["seconds"], checkpoint["stretches"]


def count_correct(net: nn.Module, loader: Batches) -> int:
    """Return how many images of the loader the net, in eval mode and float32 arithmetic, gets right."""
    was_training = net.training
    net.eval()
    with torch.inference_mode():
        correct = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in loader)
    net.train(was_training)
    return correct
