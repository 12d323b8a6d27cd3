"""Writes the checkpoint: the trained net as a program that needs no model code, its integers, and its record."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, fx
from torch.nn.utils import parametrize

from msq.atomic import atomic_folder
from msq.checkpoint import (
    CHECKPOINT_FILE,
    IMAGES_FILE,
    LABELS_FILE,
    PROGRAM_FILE,
    TENSORS_FILE,
    Accuracy,
    Checkpoint,
    Site,
)
from msq.checksums import sha256_of
from msq.errors import TrainingError
from msq.recipe import Recipe
from train.activation_quantizer import ActivationQuantizer
from train.data.dataset import Dataset
from train.quantize import QuantizedModel
from train.quantize import Site as QuantizedSite
from train.trainer import PhaseResult


def write_checkpoint(
    model: QuantizedModel,
    data: Dataset,
    recipe: Recipe,
    recipe_sha256: str,
    accuracy: tuple[Accuracy, ...],
    results: Sequence[PhaseResult],
    out: Path,
) -> Checkpoint:
    """Write the checkpoint folder atomically and return its record.

    Args:
        model: trained. results: of all phases that led to it; the last one's measures are the sites'.
    Raises:
        TrainingError: an activation's scale did not stay positive. StorageError: no space.
    """
    model = copy.deepcopy(model).eval().cpu()
    with atomic_folder(out) as folder:
        (folder / IMAGES_FILE).parent.mkdir()
        _write_images(data, folder / IMAGES_FILE)
        np.save(folder / LABELS_FILE, data.test_labels.numpy())
        tensors: dict[str, Tensor] = {}
        for site in model.sites:
            codes, scale = site.codes()
            tensors |= {f"{site.name}.codes": codes.contiguous(), f"{site.name}.scale": scale.contiguous()}
        save_file(tensors, folder / TENSORS_FILE)
        measures = results[-1].measures
        sites = tuple(_site(site_, *measures.get(site_.name, (None, None))) for site_ in model.sites)
        average_bits, weights = model.average_bits, model.weights
        example = torch.zeros(2, data.input.channels, data.input.height, data.input.width)
        with _fake_quantize_traceable():
            program = torch.export.export(
                _freeze(model), (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
            )
        with warnings.catch_warnings():
            # It looks for whole tensors among views on other devices; all of these are whole and on the CPU.
            warnings.filterwarnings("ignore", message="No complete tensor found")
            torch.export.save(program, folder / PROGRAM_FILE)
        paper = sum(site.paper_bits * int(np.prod(site.shape)) for site in sites)
        checkpoint = Checkpoint(
            recipe=recipe.name,
            recipe_sha256=recipe_sha256,
            model=recipe.model.name,
            method=recipe.method.name,
            input=data.input,
            labels=data.labels,
            sites=sites,
            activation_bits=recipe.activations.bits,
            average_bits=average_bits,
            budget_bits=recipe.budget.average_bits,
            paper_compression=32 * weights / paper if paper else None,
            accuracy=accuracy,
            history=tuple(record for result in results for record in result.history),
            data=data.id(),
            golden=recipe.export.golden,
            seed=recipe.seed,
            phases=tuple(result.record for result in results),
            versions={name: metadata.version(name) for name in ("torch", "lightning", "numpy")},
            files={name: sha256_of(folder / name) for name in (PROGRAM_FILE, TENSORS_FILE, IMAGES_FILE, LABELS_FILE)},
        )
        checkpoint.write(folder / CHECKPOINT_FILE)
    return checkpoint


def _write_images(data: Dataset, path: Path) -> None:
    """Write the test images as one .npy file, piece by piece: all of them may be more than memory holds."""
    shape = (len(data.test_labels), data.input.height, data.input.width, data.input.channels)
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for images in data.evaluation():
            stream.write(images.contiguous().numpy().data)


def _site(site: QuantizedSite, beta: float | None, omega: float | None) -> Site:
    quantizer = site.quantizer
    return Site(
        name=site.name,
        op=site.op,
        parameter=f"{site.name}.weight",
        shape=site.shape,
        bits=quantizer.stored_bits,
        paper_bits=quantizer.paper_bits,
        a=quantizer.grid.a,
        z=quantizer.grid.z,
        granularity="per_channel" if quantizer.per_channel else "per_tensor",
        representation=quantizer.representation,
        beta=beta,
        omega=omega,
    )


@contextmanager
def _fake_quantize_traceable() -> Iterator[None]:
    """Tell torch.export the shapes of aten.fake_quantize_per_tensor_affine, which torch 2.13 does not know."""

    def shapes(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("fake_quantize_per_tensor_affine_cachemask", shapes, "Meta")
        yield


def _freeze(model: QuantizedModel) -> fx.GraphModule:
    """Return the graph with plain quantized weights, and activation quantizers as calls of a standard operator."""
    graph = model.graph
    for site in model.sites:
        parametrize.remove_parametrizations(site.layer, "weight", leave_parametrized=True)
    for node in list(graph.graph.nodes):
        quantizer = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(quantizer, ActivationQuantizer):
            continue
        scale = float(quantizer.step.detach())
        if not scale > 0:
            raise TrainingError(
                f"the scale of activation {node.name} is {scale} after training",
                hint="use a lower learning rate, or activations: {range: calibrated}",
            )
        arguments = (node.args[0], scale, quantizer.zero_point, quantizer.low, quantizer.high)
        with graph.graph.inserting_before(node):
            frozen = graph.graph.call_function(torch.fake_quantize_per_tensor_affine, arguments)
        node.replace_all_uses_with(frozen)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph
