"""Makes the bundle: capture, lower, check against the oracle, and write it whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import runtimes
from export.audit import audit
from export.capture import capture, run_program
from export.card import model_card
from export.lowerings import ChoosyLowering, Lowering, MachineLowering, lowering
from export.parity import fidelity, parity, whole
from export.sizes import layers, sizes
from msq.archive import write_archive
from msq.atomic import atomic_folder, write_text
from msq.bundle import (
    CARD_FILE,
    GOLDEN_FILE,
    HOST_PREDICTIONS_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    Arena,
    Manifest,
    Parity,
)
from msq.checkpoint import CHECKPOINT_FILE, IMAGES_FILE, Accuracy, Checkpoint
from msq.checkpoint import LABELS_FILE as TEST_LABELS_FILE
from msq.checksums import sha256_of
from msq.errors import BundleError, ParityError, UsageError
from msq.integer_model import IntegerModel
from msq.preprocessing import normalise
from runtimes.reference import ReferenceSession

FIDELITY_IMAGES = 256
"""Test images on which the integer model is compared with the trained program."""
BATCH = 64
"""Images that the runtime is given at once."""

Array = NDArray[Any]


def export(checkpoint_folder: Path, out: Path, runtime: str, processors: Sequence[str] = ()) -> Manifest:
    """Write the bundle of a checkpoint for a runtime, and the same as `out`.tar; return its manifest.

    The same checkpoint and versions give the same bytes.

    Args:
        checkpoint_folder: what training wrote. out: the bundle's folder, replaced when complete.
        runtime: a name of runtimes/; it, or its stand-in, also runs here, to be compared with the oracle.
        processors: what the model is made for, if its format is machine code; by default any of a machine's.
    Raises:
        UsageError: there is no such runtime or processor, or the format has no machine code.
        BundleError: the checkpoint is incomplete or altered, or the runtime refuses the model.
        LoweringError: an operator cannot be lowered; the message names the module path.
        ParityError: the runtime differs from the oracle by more than 1 LSB, or the oracle from the trained net.
        BudgetError: the model file is larger than its bits allow.
        StorageError: no space or no permission.
    """
    checking = runtimes.host_of(runtime)
    adapter = runtimes.adapter(checking)
    if adapter.LOWERING == "file":
        raise UsageError(f"{runtime} runs files that others made", hint="measure one by `msq measure --model`")
    target = lowering(adapter.LOWERING)
    if processors and not isinstance(target, MachineLowering):
        raise UsageError(f"a bundle of {target.NAME} is the same for all processors", hint="leave --processor out")
    checkpoint = Checkpoint.open(checkpoint_folder)
    images = _images(checkpoint_folder, checkpoint)
    model = capture(checkpoint_folder, checkpoint)
    oracle = ReferenceSession(model)
    trained = run_program(checkpoint_folder, checkpoint, images)
    expected = oracle.run(images)
    faithful = fidelity(model, trained, expected)
    with atomic_folder(out) as folder:
        model = model.save(folder)
        if isinstance(target, MachineLowering):
            target.lower(model, folder, processors)
        else:
            target.lower(model, folder)
        session = adapter.load(folder, threads=1)
        host = session.tensors(images[: checkpoint.golden])
        compared = _golden(model, host, folder, images[: checkpoint.golden])
        if adapter.STEPWISE:
            compared = compared.model_copy(update={"whole": whole(model, expected, session.run(images))})
        # The probe's outputs speak for the deployed file only if both give the same result.
        elif not np.array_equal(session.run(images[: checkpoint.golden]), host[model.output]):
            raise ParityError("the deployed model and its probe give different outputs", hint="report the model")
        deployed = _deployed(session, checkpoint_folder, checkpoint, folder)
        (folder / LABELS_FILE).write_text(json.dumps(checkpoint.labels, indent=1) + "\n", encoding="utf-8")
        manifest = Manifest(
            name=checkpoint.recipe,
            lowering=target.NAME,
            model=checkpoint.model,
            method=checkpoint.method,
            input=checkpoint.input,
            labels=checkpoint.labels,
            layers=layers(model, checkpoint.sites),
            average_bits=checkpoint.average_bits,
            budget_bits=checkpoint.budget_bits,
            paper_compression=checkpoint.paper_compression,
            sizes=sizes(model, target, adapter, folder),
            good_for=target.good_for(folder) if isinstance(target, ChoosyLowering) else (),
            audit=audit(model, folder, target.DEPLOYED),
            parity=compared,
            arena=_arena(session),
            fidelity=faithful,
            accuracy=(*checkpoint.accuracy, deployed),
            history=checkpoint.history,
            data=checkpoint.data,
            seed=checkpoint.seed,
            training_seconds=checkpoint.seconds,
            checkpoint_sha256=sha256_of(checkpoint_folder / CHECKPOINT_FILE),
            versions={**checkpoint.versions, **_versions(target), checking: adapter.version()},
            files={},
        )
        write_text(folder / CARD_FILE, model_card(manifest))
        files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        manifest = manifest.model_copy(update={"files": files})
        manifest.write(folder / MANIFEST_FILE)
    write_archive(out)
    return manifest


def _images(folder: Path, checkpoint: Checkpoint) -> NDArray[np.float32]:
    """Return the first test images, preprocessed: enough for golden vectors and for the comparison with training."""
    path, spec = folder / IMAGES_FILE, checkpoint.input
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    wanted = (spec.height, spec.width, spec.channels)
    if stored.dtype != np.uint8 or stored.shape[1:] != wanted or not len(stored):
        raise BundleError(f"{path}: images are {stored.dtype} {stored.shape}, not uint8 (n, {wanted})")
    return normalise(stored[: max(FIDELITY_IMAGES, checkpoint.golden)], spec.mean, spec.std)


def _deployed(session: runtimes.Session, folder: Path, checkpoint: Checkpoint, bundle: Path) -> Accuracy:
    """Return the accuracy of the deployed model, by the runtime here over the whole test set, and keep its classes."""
    images = np.load(folder / IMAGES_FILE, mmap_mode="r", allow_pickle=False)
    labels = np.load(folder / TEST_LABELS_FILE, allow_pickle=False)
    spec, predicted = checkpoint.input, np.empty(len(images), np.int64)
    for start in range(0, len(images), BATCH):
        batch = normalise(images[start : start + BATCH], spec.mean, spec.std)
        predicted[start : start + BATCH] = session.run(batch).reshape(len(batch), -1).argmax(1)
    np.save(bundle / HOST_PREDICTIONS_FILE, predicted)
    return Accuracy(what="deployed", correct=int((predicted == labels).sum()), n=len(images))


def _arena(session: runtimes.Session) -> Arena | None:
    if not isinstance(session, runtimes.Planned):
        return None
    memory = session.memory()
    return Arena(bytes=memory.arena, bound_bytes=memory.arena_bound, timeline=session.timeline())


def _golden(model: IntegerModel, host: Mapping[str, Array], folder: Path, images: NDArray[np.float32]) -> Parity:
    """Write golden.npz and return how the tensors that the runtime computes here compare with the oracle's."""
    oracle = ReferenceSession(model).tensors(images)
    compared = parity(model, oracle, host)
    differing = {f"host/{name}": host[name] for name in oracle if not np.array_equal(host[name], oracle[name])}
    vectors: dict[str, Array] = {"input": images, **{f"oracle/{name}": oracle[name] for name in oracle}, **differing}
    with (folder / GOLDEN_FILE).open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **vectors)
    return compared


def _versions(target: Lowering) -> dict[str, str]:
    return {name: metadata.version(name) for name in ("msq-edge", *target.PACKAGES)}
