"""Weights from a file into a net: read without running code, matched by name and shape, or refused by name."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from msq.errors import TrainingError

_HINT = "init must hold a state dict of the recipe's model with its options, saved by torch.save or safetensors"


def load_weights(net: nn.Module, path: Path, classes: int | None) -> list[str]:
    """Load a state dict into a net.

    Args:
        net: changed in place. path: .safetensors, or a torch file of tensors only; see read_weights.
        classes: of the net, where a last layer for another number of classes may be left as it is; None: it may not.
    Returns:
        The parameters that were left as they are, for their file is of another number of classes.
    Raises:
        TrainingError: it cannot be read, or does not fit; the first parameters at fault are named.
    """
    weights, own = read_weights(path), net.state_dict()
    # Counters of batch norms are younger than many a file, and nothing is computed from them.
    missing = [name for name in own if name not in weights and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in weights if name not in own]
    misshaped = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    fresh = [
        name
        for name in misshaped
        if own[name].shape[:1] == (classes,) and own[name].shape[1:] == weights[name].shape[1:]
    ]
    problems = {"missing": missing, "unexpected": unexpected}
    problems["of another shape"] = [
        f"{name} {_shape(weights[name])} (the model's is {_shape(own[name])})" for name in misshaped
    ]
    if missing or unexpected or fresh != misshaped:
        said = "; ".join(f"{what}: {_few(names)}" for what, names in problems.items() if names)
        classed = classes is None and not (missing or unexpected)
        more = "; for another number of classes give the float run epochs, which train a fresh last layer"
        raise TrainingError(f"{path}: does not fit the model: {said}", hint=_HINT + (more if classed else ""))
    net.load_state_dict({name: tensor for name, tensor in weights.items() if name not in fresh}, strict=False)
    return fresh


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, out of a "state_dict" or "model" and without DataParallel's "module.".

    Raises:
        TrainingError: there is no such file, or it holds something else than tensors.
    """
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file", hint=_HINT) from None
    except (RuntimeError, pickle.UnpicklingError, SafetensorError, EOFError, OSError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read as weights: {_line(error)}", hint=_HINT) from None
    while isinstance(found, Mapping) and (inner := found.get("state_dict", found.get("model"))) is not None:
        if not isinstance(inner, Mapping):
            break
        found = inner
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise TrainingError(f"{path}: holds no weights by name", hint=_HINT)
    # DataParallel has the whole net as its `module`.
    prefix = "module." if all(name.startswith("module.") for name in found) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
