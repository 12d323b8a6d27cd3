"""Debian packages of an emulated board: put into a folder by hand, else fetched by a private apt."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from msq import apt
from msq.cache import cache_folder
from msq.errors import DeviceError

SUITE = "trixie"


def drop_in(suite: str = SUITE) -> Path:
    """Return the folder where .deb files are kept, and where a user without network puts them."""
    return cache_folder("debs") if suite == SUITE else cache_folder("debs", suite)


def obtain(packages: Sequence[str], architecture: str, suite: str = SUITE) -> list[Path]:
    """Return the .deb file of each package, fetching those that are not there yet.

    Args:
        packages: names in Debian's suite. architecture: Debian's name (amd64, arm64). suite: of Debian.
    Raises:
        DeviceError: they cannot be fetched; the hint says which files to put where.
        StorageError: no space for them.
    """
    missing = [package for package in packages if _newest(package, architecture, suite) is None]
    if missing:
        _fetch(missing, architecture, suite)
    return [file for package in packages if (file := _newest(package, architecture, suite))]


def kernel(flavour: str, architecture: str) -> Path:
    """Return the .deb file of the suite's kernel of a flavour ("cloud-arm64"), fetching it if it is not there yet.

    Raises:
        DeviceError: it cannot be fetched; the hint says which file to put where.
        StorageError: no space for it.
    """
    pattern = f"linux-image-[0-9]*-{flavour}"
    if (there := _newest(pattern, architecture, SUITE)) is None:
        # Its name has its release in it; an empty package of a name that stays depends on the newest.
        _fetch([pattern], architecture, SUITE, meta=f"linux-image-{flavour}")
        there = _newest(pattern, architecture, SUITE)
    assert there is not None
    return there


def _fetch(missing: Sequence[str], architecture: str, suite: str, meta: str | None = None) -> None:
    folder = drop_in(suite)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Files appear in the folder only when apt has checked them: a stopped download leaves nothing to trip over.
        with tempfile.TemporaryDirectory(prefix=".fetch.", dir=folder) as temporary:
            source = apt.PrivateApt(Path(temporary, "apt"), architecture, [suite])
            source.update()
            packages = [source.dependency(meta)] if meta else missing
            for file in source.download(packages, Path(temporary, "debs")):
                file.replace(folder / file.name)
    except apt.AptError as error:
        wanted = ", ".join(f"{package}_*_{architecture}.deb" for package in missing)
        raise DeviceError(
            f"the emulated board's system cannot be fetched: {error}",
            hint=f"{error.hint}; or put these files of Debian {suite} into {folder}: {wanted}",
        ) from None


def _newest(package: str, architecture: str, suite: str) -> Path | None:
    files = drop_in(suite).glob(f"{package}_*_{architecture}.deb")
    return max(files, key=lambda file: file.stat().st_mtime, default=None)
