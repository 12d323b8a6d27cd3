"""Runs one phase under Lightning, and takes up an interrupted one where its last whole epoch ended."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console

from msq.artefact import Artefact
from msq.atomic import atomic_file, storage_errors
from msq.checkpoint import EpochRecord
from msq.recipe import Recipe
from train.classifier import Classifier
from train.data.dataset import Dataset
from train.schedule import Phase

# Lightning greets, advertises and, under this release of torch, deprecates; its warnings proper still show.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=DeprecationWarning)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")

_RESULT = "result.json"
_WEIGHTS = "weights.pt"


class PhaseResult(Artefact):
    """What a finished phase leaves beside its weights; its presence says that the phase is finished."""

    history: tuple[EpochRecord, ...]
    seconds: float
    measures: dict[str, tuple[float | None, float | None]]


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's own writer copies from the system's temporary folder, and can be killed half-way."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint whole or not at all. Raises StorageError."""
        with atomic_file(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def run_phase(
    net: torch.nn.Module,
    phase: Phase,
    data: Dataset,
    recipe: Recipe,
    batch_size: int,
    folder: Path,
    console: Console,
    teacher: torch.nn.Module | None = None,
) -> PhaseResult:
    """Train `net` in place through a phase; a finished phase is loaded, an interrupted one goes on.

    Every epoch ends with a checkpoint, and all randomness of an epoch is a function of (seed, epoch): a run that was
    killed and started again ends with the same weights, bit for bit, as one that was not.

    Args:
        net: trained in place. folder: holds the phase's checkpoint and result; keyed by the caller.
        teacher: the float net, which a phase may distil from.
    Raises:
        TrainingError: the loss is not a number. StorageError: a checkpoint cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if (folder / _RESULT).is_file():
        net.load_state_dict(torch.load(folder / _WEIGHTS, weights_only=True))
        return PhaseResult.read(folder / _RESULT)
    rank, processes = rank_of_this_process(), recipe.devices * recipe.nodes
    loader = data.training(batch_size, seed=recipe.seed, rank=rank, world_size=processes)

    def say(record: EpochRecord, seconds: float) -> None:
        if rank == 0:
            console.print(
                f"{record.phase} epoch {record.epoch + 1}/{phase.epochs}: loss {record.loss:.4f}, "
                f"{record.average_bits:.2f} bits a weight, {seconds:.0f} s so far",
                highlight=False,
            )

    module = Classifier(net, phase, loader, recipe.seed, say, teacher)
    last = folder / "last.ckpt"
    trainer = L.Trainer(
        max_epochs=phase.epochs,
        accelerator=recipe.accelerator,
        devices=recipe.devices,
        num_nodes=recipe.nodes,
        precision=recipe.precision,
        # Every rank draws its own shard (train.data.order), so Lightning must not wrap the loader.
        use_distributed_sampler=False,
        deterministic="warn",
        logger=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpoints()],
        enable_progress_bar=console.is_terminal,
        default_root_dir=folder,
        callbacks=[
            *phase.callbacks,
            ModelCheckpoint(
                dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
            ),
            *([RichProgressBar(leave=False)] if console.is_terminal else []),
        ],
    )
    trainer.fit(module, train_dataloaders=loader, ckpt_path=last if last.is_file() else None)
    result = PhaseResult(history=tuple(module.history), seconds=module.seconds, measures=dict(phase.measures()))
    if trainer.is_global_zero:
        with atomic_file(folder / _WEIGHTS) as temporary:
            torch.save(net.state_dict(), temporary)
        result.write(folder / _RESULT)
    net.cpu()
    # Batch norms saw other images on every process; what goes on from here is the first one's net, everywhere.
    net.load_state_dict(trainer.strategy.broadcast(net.state_dict()))
    return result


def rank_of_this_process() -> int:
    """Return which of the processes that train together this is, 0 where it trains alone."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
