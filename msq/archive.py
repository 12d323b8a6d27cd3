"""The .tar of a bundle, written beside its folder, and read wherever a bundle's folder would be."""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msq.atomic import atomic_file
from msq.errors import BundleError


def write_archive(folder: Path) -> None:
    """Write `folder`.tar beside the folder; owners and times are left out, so that equal bundles are equal files."""
    with atomic_file(folder.with_name(f"{folder.name}.tar")) as path, tarfile.open(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            entry = tarfile.TarInfo(f"{folder.name}/{file.name}")
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as stream:
                archive.addfile(entry, stream)


@contextmanager
def bundle_folder(path: Path) -> Iterator[Path]:
    """Yield the folder of a bundle: `path` itself, or what a .tar holds, unpacked for as long as it is looked at.

    Raises:
        BundleError: `path` is neither, or the archive would write outside its folder.
    """
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="msq-bundle-") as name:
        try:
            with tarfile.open(path, "r:") as archive:
                archive.extractall(name, filter="data")
        except (OSError, tarfile.TarError) as error:
            reason = str(error).splitlines()[0]
            raise BundleError(f"{path}: no bundle: {reason}", hint="name a bundle's folder or its .tar") from None
        found = list(Path(name).iterdir())
        if len(found) != 1 or not found[0].is_dir():
            raise BundleError(f"{path}: no bundle: it holds {len(found)} things, not one folder")
        yield found[0]
