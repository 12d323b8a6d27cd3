"""Training from a recipe: float run, 8-bit baseline, method, checkpoint."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from torch import nn

from msq import plugins
from msq.checkpoint import Accuracy, Checkpoint
from msq.checksums import sha256_of
from msq.recipe import Recipe, RecipeFile
from train import data as datasets
from train import models, pretrained
from train.classifier import count_correct
from train.data.dataset import Dataset
from train.package import write_checkpoint
from train.quantize import QuantizedModel, quantize
from train.schedule import Phase
from train.target import Target
from train.trainer import PhaseResult, rank_of_this_process, run_phase
from train.weights import load_weights

CALIBRATION_BATCHES, CALIBRATION_BATCH = 8, 128
TEST_BATCH = 500


def train(recipe_file: RecipeFile, out: Path, work: Path, console: Console | None = None) -> Checkpoint:
    """Train as a recipe says and write the checkpoint folder `out`.

    What is finished is kept under `work`, keyed by everything that it depends on, and used again: an interrupted run
    goes on after its last whole epoch, and a change of the method's options does not repeat the float run.

    Raises:
        RecipeError, BudgetError, DataError, TrainingError, StorageError.
    """
    first = rank_of_this_process() == 0
    console = console or Console(stderr=True)
    console.quiet = console.quiet or not first
    recipe = recipe_file.recipe
    method: Any = plugins.load("train.methods", recipe.method.name, "method")
    options = recipe_file.options("method", method.Options)
    module = models.model(recipe.model.name)
    model_options = recipe_file.options("model", module.Options)
    data_set = datasets.data_set(recipe.data.name)
    data = pretrained.normalised(data_set.load(recipe_file.options("data", data_set.Options)), recipe.init)

    L.seed_everything(recipe.seed, workers=True, verbose=False)
    net = module.build(model_options, data.input, len(data.labels)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # A budget that cannot be met is refused before an hour of float training, not after it.
    method.phases(method.wrap(copy.deepcopy(net), options, recipe.activations, data.input), options, recipe.budget, 0)

    key = recipe.model_dump(
        mode="json", include={"data", "model", "float_run", "seed", "precision", "devices", "nodes"}
    )
    key |= {"data_sha256": data.id().sha256, "torch": torch.__version__, "train_sha256": _sources_sha256()}
    results = _float_run(net, data, recipe, work, key, console)
    tests = data.testing(TEST_BATCH)
    n = len(data.test_labels)
    float_correct = count_correct(net, tests)
    baseline = quantize(copy.deepcopy(net), activation_bits=8, input_range=data.input.pixel_range())
    calibrate(baseline, data, recipe.seed)
    ptq8_correct = count_correct(baseline, tests)
    console.print(f"float {float_correct / n:.2%}, 8-bit after training {ptq8_correct / n:.2%}", highlight=False)

    teacher = copy.deepcopy(net)
    model = method.wrap(net, options, recipe.activations, data.input)
    calibrate(model, data, recipe.seed)
    key |= recipe.model_dump(mode="json", include={"method", "budget", "activations"})
    folder = work / f"{recipe.method.name}-{_digest(key)}"
    for number, phase in enumerate(method.phases(model, options, recipe.budget, recipe.seed)):
        phase.begin()
        where = folder / f"{number}-{phase.name}"
        results.append(run_phase(model, phase, data, recipe, recipe.float_run.batch_size, where, console, teacher))
    correct = count_correct(model, tests)
    reached = f"{correct / n:.2%} at {model.average_bits:.2f} stored bits a weight"
    console.print(f"{recipe.method.name} {reached}", highlight=False)
    accuracy = (
        Accuracy(what="float", correct=float_correct, n=n),
        Accuracy(what="ptq8", correct=ptq8_correct, n=n),
        Accuracy(what="trained", correct=correct, n=n),
    )
    if first:
        sha256 = hashlib.sha256(recipe_file.text.encode()).hexdigest()
        write_checkpoint(model, data, recipe, sha256, accuracy, results, out)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    # Said at the very end: what was trained is kept even where it is too large.
    Target(recipe.budget, model).check()
    return Checkpoint.open(out)


def _float_run(
    net: nn.Module, data: Dataset, recipe: Recipe, work: Path, key: dict[str, Any], console: Console
) -> list[PhaseResult]:
    """Bring `net` to what the method starts from: given weights, which become part of the key, training, or both."""
    wanted, epochs = recipe.float_run, recipe.float_epochs
    if recipe.init is not None:
        path = pretrained.weights_file(recipe.init, recipe.model.name)
        fresh = load_weights(net, path, len(data.labels) if epochs else None)
        if fresh:
            console.print(f"{path.name} is of other classes: {', '.join(fresh)} start fresh", highlight=False)
        key["init_sha256"] = sha256_of(path)
    if not epochs:
        return []
    phase = Phase("float", epochs, wanted.learning_rate, wanted.weight_decay, wanted.label_smoothing)
    return [run_phase(net, phase, data, recipe, wanted.batch_size, work / f"float-{_digest(key)}", console)]


def calibrate(model: QuantizedModel, data: Dataset, seed: int) -> None:
    """Set the activations' ranges from the first batches of the training set."""
    loader = data.training(min(CALIBRATION_BATCH, len(data.train_labels)), seed=seed)
    model.eval()
    with torch.no_grad(), model.activations("calibrate"):
        for index, (images, _) in enumerate(loader):
            if index == CALIBRATION_BATCHES:
                break
            model(images)
    model.train()


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _sources_sha256() -> str:
    """Return a digest of this package's code: what another code trained is not taken up."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
