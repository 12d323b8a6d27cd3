"""Training from a recipe: float run, 8-bit baseline, method, checkpoint."""

import copy
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from msq import plugins
from msq.checkpoint import Accuracy, Checkpoint, EpochRecord
from msq.checksums import sha256_of
from msq.errors import TrainingError
from msq.recipe import RecipeFile
from train import data as datasets
from train import models
from train.classifier import count_correct
from train.data.dataset import Dataset
from train.data.loader import BatchLoader
from train.package import write_checkpoint
from train.quantize import QuantizedModel, quantize
from train.schedule import Phase
from train.trainer import run_phase

CALIBRATION_BATCHES = 8
TEST_BATCH = 500


def train(recipe_file: RecipeFile, out: Path, work: Path, console: Console | None = None) -> Checkpoint:
    """Train as a recipe says and write the checkpoint folder `out`.

    What is finished is kept under `work`, keyed by everything that it depends on, and used again: an interrupted run
    goes on after its last whole epoch, and a change of the method's options does not repeat the float run.

    Raises:
        RecipeError, BudgetError, DataError, TrainingError, StorageError.
    """
    console = console or Console(stderr=True)
    recipe = recipe_file.recipe
    method: Any = plugins.load("train.methods", recipe.method.name, "method")
    options = recipe_file.options("method", method.Options)
    module = models.model(recipe.model.name)
    model_options = recipe_file.options("model", module.Options)
    data_set = datasets.data_set(recipe.data.name)
    data = data_set.load(recipe_file.options("data", data_set.Options))

    L.seed_everything(recipe.seed, workers=True, verbose=False)
    net = module.build(model_options, data.input, len(data.labels)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # A budget that cannot be met is refused before an hour of float training, not after it.
    method.phase(method.wrap(copy.deepcopy(net), options, recipe.activations, data.input), options, recipe.budget, 0)

    history: tuple[EpochRecord, ...] = ()
    seconds = 0.0
    base = recipe.model_dump(mode="json", include={"data", "model", "float_run", "seed", "precision", "devices"})
    base |= {"data_sha256": data.id().sha256, "nodes": recipe.nodes, "torch": torch.__version__}
    float_folder = work / f"float-{_key(base)}"
    float_phase = Phase(
        "float",
        recipe.float_run.epochs,
        recipe.float_run.learning_rate,
        recipe.float_run.weight_decay,
        recipe.float_run.label_smoothing,
    )
    if recipe.float_run.checkpoint is not None:
        _load_weights(net, recipe.float_run.checkpoint)
        base["float_sha256"] = sha256_of(recipe.float_run.checkpoint)
    else:
        result = run_phase(net, float_phase, data, recipe, recipe.float_run.batch_size, float_folder, console)
        history, seconds = result.history, result.seconds
    tests = BatchLoader.testing(data, TEST_BATCH)
    n = len(data.test_labels)
    float_correct = count_correct(net, tests)
    baseline = quantize(copy.deepcopy(net), activation_bits=8, input_range=data.input.pixel_range())
    calibrate(baseline, data, recipe.seed)
    ptq8_correct = count_correct(baseline, tests)
    console.print(f"float {float_correct / n:.2%}, 8-bit after training {ptq8_correct / n:.2%}", highlight=False)

    model = method.wrap(net, options, recipe.activations, data.input)
    calibrate(model, data, recipe.seed)
    phase = method.phase(model, options, recipe.budget, recipe.seed)
    sections = {"method", "budget", "activations"}
    method_key = base | recipe.model_dump(mode="json", include=sections)
    method_folder = work / f"{recipe.method.name}-{_key(method_key)}"
    result = run_phase(model, phase, data, recipe, recipe.float_run.batch_size, method_folder, console)
    correct = count_correct(model, tests)
    console.print(f"{phase.name} {correct / n:.2%} at {model.average_bits:.2f} stored bits a weight", highlight=False)
    accuracy = (
        Accuracy(what="float", correct=float_correct, n=n),
        Accuracy(what="ptq8", correct=ptq8_correct, n=n),
        Accuracy(what="msq", correct=correct, n=n),
    )
    return write_checkpoint(
        model,
        data,
        recipe,
        hashlib.sha256(recipe_file.text.encode()).hexdigest(),
        accuracy,
        (*history, *result.history),
        result.measures,
        seconds + result.seconds,
        out,
    )


def calibrate(model: QuantizedModel, data: Dataset, seed: int) -> None:
    """Set the activations' ranges from the first batches of the training set."""
    loader = BatchLoader.training(data, 128, seed=seed)
    model.eval()
    with torch.no_grad(), model.activations("calibrate"):
        for index, (images, _) in enumerate(loader):
            if index == CALIBRATION_BATCHES:
                break
            model(images)
    model.train()


def _load_weights(net: nn.Module, path: Path) -> None:
    """Load a state dict (.safetensors, or a torch file of tensors only) that fits the model."""
    hint = "float.checkpoint must be a state dict of the recipe's model, saved by torch.save or safetensors"
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        net.load_state_dict(state.get("state_dict", state))
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file", hint=hint) from None
    except (RuntimeError, pickle.UnpicklingError, SafetensorError, EOFError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"{path}: does not fit the model: {reason[:200]}", hint=hint) from None


def _key(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
