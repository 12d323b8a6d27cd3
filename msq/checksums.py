"""Sha256 of files, and the check that a folder still holds what its manifest promised. Standard library only."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from msq.errors import BundleError


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def verify_files(folder: Path, wanted: Mapping[str, str]) -> None:
    """Check that every file named in `wanted` (name → hex sha256) lies unaltered in `folder`.

    Raises:
        BundleError: a file is missing, cut or altered; the message names it.
    """
    for name, digest in wanted.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleError(f"{folder}: the manifest names a file outside the folder: {name!r}")
        if not path.is_file():
            raise BundleError(f"{path}: missing, but the manifest lists it", hint="make the artefact again")
        found = sha256_of(path)
        if found != digest:
            raise BundleError(
                f"{path}: sha256 is {found[:12]}…, the manifest says {digest[:12]}…",
                hint="the file was altered or cut; make it again, or fetch it from its source",
            )
