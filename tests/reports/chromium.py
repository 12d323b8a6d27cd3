"""Chromium without a window, unpacked without root, to look at pages as their readers do."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from msq.apt import PrivateApt, extract
from msq.atomic import atomic_folder
from msq.cache import cache_folder

REVISION = 1
"""Raised when what is made from the same packages changes."""
# The oldest release that has this browser: its programs run with the C library of any newer machine.
SUITES = ("bookworm", "bookworm-security")
PACKAGES = ("chromium-headless-shell", "fontconfig-config", "fonts-dejavu-core")
THE_MACHINES = ("libc6_", "libc-bin_", "debconf_", "perl-base_", "dpkg_")
"""Packages that are not unpacked: the loader and the C library are one, and the machine's loader starts a program."""


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium, fetching it first if it is not cached.

    Raises:
        AptError: it cannot be fetched. StorageError: no space for it.
    """
    root = _root()
    (libraries,) = root.glob("usr/lib/*-linux-gnu")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'pulseaudio'}",
        "FONTCONFIG_SYSROOT": str(root),
    }
    with sync_playwright() as playwright:
        # The sandbox wants a helper that belongs to root; the pages are our own.
        started = playwright.chromium.launch(
            executable_path=root / "usr/lib/chromium/chromium-headless-shell",
            env=environment,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        try:
            yield started
        finally:
            started.close()


def _root() -> Path:
    key = hashlib.sha256(json.dumps([REVISION, SUITES, PACKAGES]).encode()).hexdigest()[:12]
    folder = cache_folder("chromium", key)
    if not folder.is_dir():
        with Console(stderr=True).status("fetching Chromium …"), atomic_folder(folder) as temporary:
            _make(temporary)
    return folder


def _make(root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=root.parent) as name:
        source = PrivateApt(Path(name, "apt"), suites=SUITES)
        source.update()
        for package in source.download(PACKAGES, Path(name, "debs"), dependencies=True):
            if not package.name.startswith(THE_MACHINES):
                extract(package, root)
