"""How two bundles differ: layer by layer, in size and accuracy, in the classes they give, in what made them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.artefact import Artefact, Strict
from msq.bundle import HOST_PREDICTIONS_FILE, MANIFEST_FILE, Manifest
from msq.checksums import sha256_of
from msq.errors import BundleError
from reports.significance import Difference, paired_shares


class Changed(Strict):
    """Something that both bundles have, or only one: then the other is None."""

    what: str
    a: str | None
    b: str | None


class Answers(Strict):
    """To how many test images the exporting hosts' runtimes gave different classes."""

    images: int
    different: int


class BundleDiff(Artefact):
    """The difference of two bundles; empty lists where there is none."""

    a_sha256: str
    """Of the manifest, which names all that a bundle holds."""
    b_sha256: str
    facts: tuple[Changed, ...]
    layers: tuple[Changed, ...]
    files: tuple[Changed, ...]
    versions: tuple[Changed, ...]
    answers: Answers | None
    """None where a bundle does not tell, or they were tested on different data."""
    top1: Difference | None = None
    """Of the whole test set, image by image, where its labels were at hand."""

    @property
    def same(self) -> bool:
        """Whether they are the same bundle."""
        return self.a_sha256 == self.b_sha256


def diff(a: Path, b: Path, evaluation: Path | None = None) -> BundleDiff:
    """Compare two bundles' folders.

    Args:
        evaluation: folder with labels.npy of the test set, by which the exporting hosts' answers are judged.
    Raises:
        BundleError: a bundle is not whole, or the labels are missing or not those of its test set.
    """
    first, second = Manifest.open(a), Manifest.open(b)
    said = _answers(a, b) if first.data == second.data else None
    return BundleDiff(
        a_sha256=sha256_of(a / MANIFEST_FILE),
        b_sha256=sha256_of(b / MANIFEST_FILE),
        facts=tuple(_changed(_facts(first), _facts(second))),
        layers=tuple(_changed(_layers(first), _layers(second))),
        files=tuple(_changed(_short(first.files), _short(second.files))),
        versions=tuple(_changed(first.versions, second.versions)),
        answers=Answers(images=len(said[0]), different=int((said[0] != said[1]).sum())) if said else None,
        top1=_top1(*said, evaluation) if said and evaluation else None,
    )


def _changed(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Changed]:
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield Changed(what=name, a=a.get(name), b=b.get(name))


def _facts(manifest: Manifest) -> dict[str, str]:
    sizes = manifest.sizes
    facts: dict[str, Any] = {
        "name": manifest.name,
        "model": manifest.model,
        "method": manifest.method,
        "format": manifest.lowering,
        "input": manifest.input.model_dump_json(),
        "classes": len(manifest.labels),
        "data": f"{manifest.data.name} {manifest.data.sha256[:12]}…",
        "seed": manifest.seed,
        "checkpoint": f"{manifest.checkpoint_sha256[:12]}…",
        "bits a weight": f"{manifest.average_bits:.4f}",
        "model file, bytes": sizes.model_bytes,
        "weights, bytes": sizes.weight_bytes,
        "arena, bytes": manifest.arena.bytes if manifest.arena else "none",
        "largest difference to the oracle, LSB": manifest.parity.max_lsb,
    }
    facts |= {f"top-1, {one.what}": f"{one.correct} of {one.n}" for one in manifest.accuracy}
    return {name: str(value) for name, value in facts.items()}


def _layers(manifest: Manifest) -> dict[str, str]:
    return {
        layer.name: f"{layer.bits} bits, {layer.packed_bytes:,} bytes, {'×'.join(map(str, layer.shape))}"
        for layer in manifest.layers
    }


def _short(files: Mapping[str, str]) -> dict[str, str]:
    return {name: f"{digest[:12]}…" for name, digest in files.items()}


def _answers(a: Path, b: Path) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return the class that each bundle's exporting host gave each test image; None where one does not tell."""
    paths = (a / HOST_PREDICTIONS_FILE, b / HOST_PREDICTIONS_FILE)
    if not all(path.exists() for path in paths):
        return None
    first, second = (np.load(path, allow_pickle=False) for path in paths)
    return (first, second) if first.shape == second.shape else None


def _top1(first: NDArray[Any], second: NDArray[Any], evaluation: Path) -> Difference:
    path = evaluation / "labels.npy"
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: missing or not a .npy file: {error}", hint="train writes it") from None
    if labels.shape != first.shape:
        raise BundleError(f"{path}: {len(labels)} labels, the bundles were tested on {len(first)} images")
    return paired_shares(first == labels, second == labels)
