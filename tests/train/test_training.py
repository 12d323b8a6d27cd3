"""Training as a process: killed and started again, or shared out among several, it comes to one result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msq.checkpoint import IMAGES_FILE, LABELS_FILE, PROGRAM_FILE, TENSORS_FILE, Checkpoint
from msq.recipe import RecipeFile
from train.data import data_set

NAMES = ("undisturbed", "killed")


@pytest.fixture(params=["in memory", "streamed"])
def recipe(request: pytest.FixtureRequest, recipe: Path) -> Path:
    """The smallest real recipe, its images in memory or read while they are used."""
    if request.param == "streamed":
        wanted = yaml.safe_load(recipe.read_text())
        options = {"size": 8, "resize": 8, "crop": 0.5, "test": "test", "test_images": 20, "workers": 1}
        wanted["data"] = {"name": "imagenet", "path": wanted["data"]["path"], **options}
        recipe.write_text(yaml.safe_dump(wanted))
    return recipe


def train(recipe: Path, name: str) -> subprocess.Popen[bytes]:
    folder = recipe.parent / name
    command = [str(Path(sys.executable).with_name("msq")), "train", str(recipe)]
    command += ["--out", str(folder / "checkpoint"), "--work", str(folder / "work")]
    environment = os.environ | {"MSQ_CACHE": str(recipe.parent / "cache")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, messages = process.communicate(timeout=240)
    assert process.returncode == 0, messages.decode()


def kill_when(process: subprocess.Popen[bytes], work: Path, pattern: str) -> None:
    """SIGKILL the training as soon as a file of its work folder matches."""
    deadline = time.monotonic() + 240
    while not list(work.glob(pattern)):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def log_of(work: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of the method's phase: (step, value) by name."""
    (folder,) = work.glob("msq-*/0-msq")
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_a_killed_training_ends_with_the_bits_and_weights_of_an_undisturbed_one(recipe: Path) -> None:
    finish(train(recipe, "undisturbed"))
    work = recipe.parent / "killed" / "work"
    kill_when(train(recipe, "killed"), work, "float-*/last.ckpt")
    kill_when(train(recipe, "killed"), work, "msq-*/*/last.ckpt")
    finish(train(recipe, "killed"))
    records = [Checkpoint.open(recipe.parent / name / "checkpoint") for name in NAMES]
    assert records[0].sites == records[1].sites
    assert records[0].history == records[1].history
    assert records[0].average_bits <= 3
    assert [(phase.name, phase.steps) for phase in records[1].phases] == [("float", 18), ("msq", 36)]
    logs = [log_of(recipe.parent / name / "work") for name in NAMES]
    assert logs[0] == logs[1]
    assert {"loss", "learning_rate", "l1", "average_bits", "epoch/loss"} < logs[0].keys()
    layers = {site.name for site in records[0].sites}
    assert {f"{what}/{name}" for what in ("beta", "omega", "bits") for name in layers} < logs[0].keys()
    assert logs[0]["average_bits"][-1][1] == np.float32(records[0].average_bits)
    assert [step for step, _ in logs[0]["loss"]] == list(range(1, 37))
    tensors = [load_file(recipe.parent / name / "checkpoint" / TENSORS_FILE) for name in NAMES]
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    programs = [torch.export.load(recipe.parent / name / "checkpoint" / PROGRAM_FILE) for name in NAMES]
    # The graph holds the activations' scales and zero points.
    assert str(programs[0].graph) == str(programs[1].graph)
    assert all(
        torch.equal(programs[0].state_dict[name], programs[1].state_dict[name]) for name in programs[0].state_dict
    )


def test_two_processes_train_one_net_to_the_budget(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe.write_text(recipe.read_text() + "devices: 2\naccelerator: cpu\n")
    finish(train(recipe, "shared"))
    record = Checkpoint.open(recipe.parent / "shared" / "checkpoint")
    assert [epoch.phase for epoch in record.history] == ["float"] * 2 + ["msq"] * 4
    assert record.average_bits <= 3
    assert record.history[-1].loss < record.history[0].loss
    # The checkpoint keeps the images that it was judged by.
    monkeypatch.setenv("MSQ_CACHE", str(recipe.parent / "cache"))
    file = RecipeFile.read(recipe)
    module = data_set(file.recipe.data.name)
    data = module.load(file.options("data", module.Options))
    kept = np.load(recipe.parent / "shared" / "checkpoint" / IMAGES_FILE)
    assert np.array_equal(kept, torch.cat(list(data.evaluation())).numpy())
    assert np.array_equal(np.load(recipe.parent / "shared" / "checkpoint" / LABELS_FILE), data.test_labels.numpy())
    assert {accuracy.n for accuracy in record.accuracy} == {len(kept)}
