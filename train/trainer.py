"""Runs one phase under Lightning, and takes up an interrupted one where its last whole epoch ended."""

import os
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from rich.console import Console

from msq.artefact import Artefact
from msq.atomic import atomic_file
from msq.checkpoint import EpochRecord
from msq.errors import StorageError
from msq.recipe import Recipe
from train.classifier import Classifier
from train.data.dataset import Dataset
from train.data.loader import BatchLoader
from train.schedule import Phase

_RESULT = "result.json"
_WEIGHTS = "weights.pt"


class PhaseResult(Artefact):
    """What a finished phase leaves beside its weights; its presence says that the phase is finished."""

    history: tuple[EpochRecord, ...]
    seconds: float
    measures: dict[str, tuple[float | None, float | None]]


class EpochLines(L.Callback):
    """One line an epoch, for those who read a log and not a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the epoch's record."""
        assert isinstance(pl_module, Classifier)
        if trainer.is_global_zero and pl_module.history:
            record = pl_module.history[-1]
            self._console.print(
                f"{record.phase} epoch {record.epoch + 1}/{trainer.max_epochs}: loss {record.loss:.4f}, "
                f"{record.average_bits:.2f} bits a weight, {pl_module.seconds:.0f} s so far",
                highlight=False,
            )


def run_phase(
    net: torch.nn.Module, phase: Phase, data: Dataset, recipe: Recipe, batch_size: int, folder: Path, console: Console
) -> PhaseResult:
    """Train `net` in place through a phase; a finished phase is loaded, an interrupted one goes on.

    Every epoch ends with a checkpoint, and all randomness of an epoch is a function of (seed, epoch): a run that was
    killed and started again ends with the same weights, bit for bit, as one that was not.

    Args:
        net: trained in place. folder: holds the phase's checkpoint and result; keyed by the caller.
    Raises:
        TrainingError: the loss is not a number. StorageError: a checkpoint cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / _RESULT).is_file():
        net.load_state_dict(torch.load(folder / _WEIGHTS, weights_only=True))
        return PhaseResult.read(folder / _RESULT)
    rank, world = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))), recipe.devices * recipe.nodes
    loader = BatchLoader.training(data, batch_size, seed=recipe.seed, rank=rank, world_size=world)
    module = Classifier(net, phase, loader, recipe.seed)
    last = folder / "last.ckpt"
    trainer = L.Trainer(
        max_epochs=phase.epochs,
        accelerator=recipe.accelerator,
        devices=recipe.devices,
        num_nodes=recipe.nodes,
        precision=recipe.precision,
        # Every rank draws its own shard (BatchLoader), so Lightning must not wrap the loader.
        use_distributed_sampler=False,
        deterministic="warn",
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=console.is_terminal,
        default_root_dir=folder,
        callbacks=[
            *phase.callbacks,
            EpochLines(console),
            # Last, so that what it saves holds what the others did at the end of the epoch.
            ModelCheckpoint(
                dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
            ),
            *([RichProgressBar(leave=False)] if console.is_terminal else []),
        ],
    )
    try:
        trainer.fit(module, train_dataloaders=loader, ckpt_path=last if last.is_file() else None)
    except OSError as error:
        raise StorageError(f"{last}: cannot be written: {error.strerror}", hint=f"free space under {folder}") from error
    result = PhaseResult(history=tuple(module.history), seconds=module.seconds, measures=dict(phase.measures()))
    if trainer.is_global_zero:
        with atomic_file(folder / _WEIGHTS) as temporary:
            torch.save(net.state_dict(), temporary)
        result.write(folder / _RESULT)
    trainer.strategy.barrier()
    net.cpu()
    return result
