"""The cache: what was fetched or provisioned once and can be made again. One folder, found in one place."""

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """Return a folder of the cache, not yet created: $MSQ_CACHE, else $XDG_CACHE_HOME/msq, else ~/.cache/msq."""
    if root := os.environ.get("MSQ_CACHE"):
        base = Path(root)
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "msq"
    return base.joinpath(*parts).absolute()
