"""A phase of training: what its log says, as TensorBoard itself reads it, and how it ends where it cannot go on."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor, nn

from msq.errors import StorageError, TrainingError
from msq.recipe import RecipeFile
from train import data as datasets
from train.events import EventFile
from train.run_log import EVERY, LAST, RunLog
from train.schedule import Phase
from train.trainer import PhaseResult, run_phase

IMAGES = 72
Run = Callable[..., PhaseResult]


@pytest.fixture
def run(recipe: Path, tmp_path: Path) -> Run:
    """Train a linear net; an epoch has IMAGES steps of one image."""
    found = RecipeFile.read(recipe)
    source = datasets.data_set(found.recipe.data.name)
    data = source.load(found.options("data", source.Options))

    def run(*callbacks: L.Callback, folder: str = "phase", rate: float = 0.01, net: Any = None, **more: Any) -> Any:
        torch.manual_seed(0)
        phase = Phase("float", 3, rate, 0.0, callbacks=callbacks, **more)
        net = net or nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        return run_phase(net, phase, data, found.recipe, 1, tmp_path / folder, Console(quiet=True))

    return run


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of every series in a folder, as TensorBoard shows them."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


class Stopped(Exception):
    pass


class At(L.Callback):
    """Does something to the net as a step begins, counted from 1; knows which step began last."""

    def __init__(self, step: int, act: Callable[[nn.Module], None]) -> None:
        self.step, self.act, self.last = step, act, 0

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.last = trainer.global_step + 1
        if self.last == self.step:
            self.act(module.net)


def stop(_: nn.Module) -> None:
    raise Stopped


def poison(net: nn.Module) -> None:
    with torch.no_grad():
        next(net.parameters()).fill_(math.nan)


def test_every_step_has_its_loss_and_learning_rate_and_every_epoch_its_mean(run: Run, tmp_path: Path) -> None:
    result = run()
    found = scalars(tmp_path / "phase")
    steps = 3 * IMAGES
    assert [step for step, _ in found["loss"]] == list(range(1, steps + 1))
    factor = Phase("float", 3, 0.01, 0.0).factor
    rates = [0.01 * factor(step, steps) for step in range(steps)]
    assert [rate for _, rate in found["learning_rate"]] == pytest.approx(rates)
    losses = [loss for _, loss in found["loss"]]
    means = [sum(losses[epoch * IMAGES : (epoch + 1) * IMAGES]) / IMAGES for epoch in range(3)]
    assert [record.loss for record in result.history] == pytest.approx(means)
    assert found["epoch/loss"] == [(IMAGES * (epoch + 1), pytest.approx(mean)) for epoch, mean in enumerate(means)]
    assert result.record.steps == steps
    assert result.record.step_ms is not None and 0 < result.record.step_ms <= 1000 * result.record.seconds
    assert result.record.peak_memory > 1 << 20


@pytest.mark.parametrize("step", [3, 60, IMAGES + 1, IMAGES + 58, 3 * IMAGES])
def test_a_stopped_run_goes_on_with_its_log_and_repeats_no_step(run: Run, tmp_path: Path, step: int) -> None:
    whole = run(folder="whole")
    with pytest.raises(Stopped):
        run(At(step, stop))
    resumed = run()
    assert resumed.history == whole.history
    assert resumed.record.steps == whole.record.steps
    assert scalars(tmp_path / "phase") == scalars(tmp_path / "whole")


def test_what_a_method_shows_is_drawn_at_the_step_that_changed_it(run: Run, tmp_path: Path) -> None:
    shown: dict[str, float] = {}
    run(At(5, lambda _: shown.update(beta=0.5)), At(90, lambda _: shown.update(beta=0.25)), scalars=lambda: shown)
    assert scalars(tmp_path / "phase")["beta"] == [(5, 0.5), (90, 0.25)]


def test_losses_stay_on_the_device_for_fifty_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    for name in ("tolist", "item", "__float__", "__bool__"):
        original = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda self, of=original: reads.append(1) or of(self))
    log = RunLog(Phase("float", 1, 0.1, 0.0), tmp_path, writes=True)
    log.begin(0)
    log.begin_epoch(0)
    for step in range(2 * EVERY + 7):
        log.add(torch.tensor(float(step)), 0.1)
        log.end_step()
    assert len(reads) == 2
    assert log.end_epoch() == (2 * EVERY + 6) / 2
    assert len(reads) == 3
    log.close()


def test_a_log_that_finds_no_space_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = EventFile(tmp_path, purge_step=1)
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(StorageError, match="no space left"):
        monkeypatch.setattr(events, "_records", RecordWriter(full))
        events.add({"loss": 1.0}, 1)


@pytest.mark.parametrize("step", [1, 40, IMAGES, IMAGES + 1, IMAGES + 60, 3 * IMAGES])
def test_a_loss_that_is_not_finite_is_found_with_its_step_and_the_last_epoch_is_kept(
    run: Run, tmp_path: Path, step: int
) -> None:
    poisoned = At(step, poison)
    with pytest.raises(TrainingError) as caught:
        run(poisoned)
    epoch = (step - 1) // IMAGES
    assert str(caught.value) == f"the loss of the float phase is nan at step {step}, in epoch {epoch + 1} of 3"
    assert poisoned.last < step + EVERY
    last = tmp_path / "phase" / LAST
    assert last.is_file() == (epoch > 0)
    kept = f"epoch {epoch} is kept in {last}" if epoch else "no epoch before it was finished"
    assert kept in caught.value.hint
    if epoch:
        assert torch.load(last, weights_only=False)["epoch"] == epoch - 1
    # The log shows how it came to that.
    assert math.isnan(dict(scalars(tmp_path / "phase")["loss"])[step])


def test_a_learning_rate_that_explodes_is_found_in_its_epoch(run: Run) -> None:
    with pytest.raises(TrainingError, match=r"float phase is (nan|inf) at step \d+, in epoch 1 of 3"):
        run(rate=1e38)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(b"\x80\x05 no state of anything")


@pytest.mark.parametrize("spoil", [cut, garbage, Path.unlink])
@pytest.mark.parametrize("name", ["weights.pt", "result.json"])
def test_a_finished_phase_that_is_torn_says_which_folder_to_delete(
    run: Run, tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    run()
    folder = tmp_path / "phase"
    if (name, spoil) == ("result.json", Path.unlink):
        return  # Then the phase counts as unfinished.
    spoil(folder / name)
    with pytest.raises(TrainingError, match=f"{name}: cannot be taken up") as caught:
        run()
    assert f"delete {folder} " in caught.value.hint


@pytest.mark.parametrize("spoil", [cut, garbage, None])
def test_a_saved_epoch_that_does_not_fit_says_which_file_to_delete(
    run: Run, tmp_path: Path, spoil: Callable[[Path], None] | None
) -> None:
    with pytest.raises(Stopped):
        run(At(IMAGES + 5, stop))
    last = tmp_path / "phase" / LAST
    if spoil:
        spoil(last)
    other = None if spoil else nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 3))
    with pytest.raises(TrainingError) as caught:
        run(net=other)
    assert str(caught.value).startswith(f"{last}: cannot be taken up: ")
    assert "\n" not in str(caught.value)
    assert f"delete {last} " in caught.value.hint
    last.unlink()
    assert run().record.steps == 3 * IMAGES
