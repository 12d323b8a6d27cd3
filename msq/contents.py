"""Contents: what a bundle is made of, as a bill of materials in CycloneDX 1.6 (JSON) and as a table's rows."""

from pathlib import Path
from typing import Any

from msq.bundle import (
    CARD_FILE,
    GOLDEN_FILE,
    HOST_PREDICTIONS_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    SIGNATURE_FILE,
    Manifest,
)
from msq.checksums import sha256_of

SPECIFICATION = "1.6"
_MEANING = {
    MANIFEST_FILE: "what all of it is, with the sha256 of every other file",
    SIGNATURE_FILE: "who made it",
    "model.json": "the integer model's graph",
    "weights.bin": "packed weights, scales and biases",
    GOLDEN_FILE: "golden vectors: inputs and the outputs that they must give",
    HOST_PREDICTIONS_FILE: "the class that the exporting host gave each test image",
    LABELS_FILE: "names of the classes",
    CARD_FILE: "what the model is, for people",
}


def rows(folder: Path, manifest: Manifest) -> list[tuple[str, int, str, str]]:
    """Return of every file, the largest first, its name, bytes, sha256 and what it is for."""
    names = [*manifest.files, MANIFEST_FILE, *([SIGNATURE_FILE] if (folder / SIGNATURE_FILE).exists() else [])]
    found = [
        (name, (folder / name).stat().st_size, sha256_of(folder / name), _MEANING.get(name, "the runtime's model file"))
        for name in names
    ]
    return sorted(found, key=lambda row: -row[1])


def cyclonedx(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return the bill of materials: the model, its files, its data, and the packages that made it."""
    digest = sha256_of(folder / MANIFEST_FILE)
    files = [
        {"type": "file", "bom-ref": f"file:{name}", "name": name, "description": meaning, "hashes": [_hash(sha256)]}
        for name, _, sha256, meaning in rows(folder, manifest)
    ]
    packages = [
        {
            "type": "library",
            "bom-ref": f"package:{name}",
            "name": name,
            "version": version,
            "scope": "excluded",
            "description": "made the bundle; is not part of it",
        }
        for name, version in sorted(manifest.versions.items())
    ]
    data = {
        "type": "data",
        "bom-ref": "data",
        "name": manifest.data.name,
        "hashes": [_hash(manifest.data.sha256)],
        "description": f"{manifest.data.train} training and {manifest.data.test} test images",
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": manifest.name,
                "version": digest,
                "description": f"{manifest.model}, {manifest.method}, {manifest.average_bits:.3f} bits a weight",
                "hashes": [_hash(digest)],
            }
        },
        "components": [*files, data, *packages],
        "dependencies": [{"ref": "model", "dependsOn": [*(file["bom-ref"] for file in files), "data"]}],
    }


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}
