"""Runs one phase under Lightning, and takes up an interrupted one where its last whole epoch ended."""

import logging
import os
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console

from msq.artefact import Artefact
from msq.atomic import atomic_file, storage_errors
from msq.checkpoint import EpochRecord, PhaseRecord
from msq.errors import BundleError, MsqError, TrainingError
from msq.recipe import Recipe
from train.allocator import keep_freed_memory
from train.classifier import Classifier
from train.data.dataset import Dataset
from train.run_log import LAST, RunLog
from train.schedule import Phase

# Lightning greets, advertises and, under this release of torch, deprecates; its warnings proper still show.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=DeprecationWarning)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
# A run that goes on finds what it left.
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")

_RESULT = "result.json"
_WEIGHTS = "weights.pt"


class PhaseResult(Artefact):
    """What a finished phase leaves beside its weights; its presence says that the phase is finished."""

    record: PhaseRecord
    history: tuple[EpochRecord, ...]
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
        net: trained in place. folder: holds the phase's checkpoint, log and result; keyed by the caller.
        teacher: the float net, which a phase may distil from.
    Raises:
        TrainingError: a loss is not finite, or what lies in the folder cannot be taken up; the file is named.
        StorageError: a checkpoint cannot be written.
    """
    keep_freed_memory()
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if (folder / _RESULT).is_file():
        with _taking_up(folder / _WEIGHTS, folder):
            net.load_state_dict(torch.load(folder / _WEIGHTS, map_location="cpu", weights_only=True))
        with _taking_up(folder / _RESULT, folder):
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

    log = RunLog(phase, folder, writes=rank == 0)
    module = Classifier(net, phase, loader, recipe.seed, log, say, teacher)
    last = folder / LAST
    trainer = _trainer(phase, recipe, last, console)
    saved = last if last.is_file() else None
    try:
        with _taking_up(last, last, lambda: saved is not None and not module.began):
            trainer.fit(module, train_dataloaders=loader, ckpt_path=saved)
    finally:
        log.close()
    took = PhaseRecord(
        name=phase.name,
        steps=trainer.global_step,
        seconds=module.seconds,
        step_ms=log.step_ms,
        # Linux counts in KiB.
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        peak_device_memory=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    )
    result = PhaseResult(record=took, history=tuple(module.history), measures=dict(phase.measures()))
    if trainer.is_global_zero:
        with atomic_file(folder / _WEIGHTS) as temporary:
            torch.save(net.state_dict(), temporary)
        result.write(folder / _RESULT)
    net.cpu()
    # Batch norms saw other images on every process; what goes on from here is the first one's net, everywhere.
    net.load_state_dict(trainer.strategy.broadcast(net.state_dict()))
    return result


def _trainer(phase: Phase, recipe: Recipe, last: Path, console: Console) -> L.Trainer:
    return L.Trainer(
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
        default_root_dir=last.parent,
        callbacks=[
            *phase.callbacks,
            ModelCheckpoint(
                dirpath=last.parent, filename=last.stem, save_on_train_epoch_end=True, enable_version_counter=False
            ),
            *([RichProgressBar(leave=False)] if console.is_terminal else []),
        ],
    )


@contextmanager
def _taking_up(file: Path, delete: Path, applies: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Turn what goes wrong while a saved state is taken up into the advice which file or folder to delete.

    Whatever a torn or foreign file makes a reader or the net raise means the same here; it does so as long as
    `applies`.
    """
    try:
        yield
    except Exception as error:
        if not applies() or (isinstance(error, MsqError) and not isinstance(error, BundleError)):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrainingError(
            f"{file}: cannot be taken up: {reason}",
            hint=f"it is torn, or was saved by other code: delete {delete} and train again",
        ) from None


def rank_of_this_process() -> int:
    """Return which of the processes that train together this is, 0 where it trains alone."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
