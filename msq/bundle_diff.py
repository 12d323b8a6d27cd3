"""How two bundles differ: layer by layer, in size and accuracy, in the classes they give, in what made them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from msq.artefact import Artefact, Strict
from msq.bundle import HOST_PREDICTIONS_FILE, MANIFEST_FILE, Manifest
from msq.checksums import sha256_of


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

    @property
    def same(self) -> bool:
        """Whether they are the same bundle."""
        return self.a_sha256 == self.b_sha256


def diff(a: Path, b: Path) -> BundleDiff:
    """Compare two bundles' folders. Raises BundleError: one of them is not whole."""
    first, second = Manifest.open(a), Manifest.open(b)
    return BundleDiff(
        a_sha256=sha256_of(a / MANIFEST_FILE),
        b_sha256=sha256_of(b / MANIFEST_FILE),
        facts=tuple(_changed(_facts(first), _facts(second))),
        layers=tuple(_changed(_layers(first), _layers(second))),
        files=tuple(_changed(_short(first.files), _short(second.files))),
        versions=tuple(_changed(first.versions, second.versions)),
        answers=_answers(a, b) if first.data == second.data else None,
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


def _answers(a: Path, b: Path) -> Answers | None:
    paths = (a / HOST_PREDICTIONS_FILE, b / HOST_PREDICTIONS_FILE)
    if not all(path.exists() for path in paths):
        return None
    first, second = (np.load(path, allow_pickle=False) for path in paths)
    if first.shape != second.shape:
        return None
    return Answers(images=len(first), different=int((first != second).sum()))
