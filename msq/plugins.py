"""Plug-ins found by name: a module of a package is a plug-in, and adding a file adds one."""

import difflib
import pkgutil
from importlib import import_module
from types import ModuleType

from msq.errors import UsageError


def names(package: str) -> list[str]:
    """Return the plug-ins of a package (its public modules), sorted, without importing them. `-` stands for `_`."""
    root = import_module(package)
    return sorted(
        module.name.replace("_", "-")
        for module in pkgutil.iter_modules(root.__path__)
        if not module.name.startswith("_")
    )


def load(package: str, name: str, noun: str) -> ModuleType:
    """Import and return the plug-in `name` of `package`.

    Raises:
        UsageError: there is none of that name; the message lists those there are.
    """
    known = names(package)
    if name not in known:
        raise unknown(name, known, noun)
    return import_module(f"{package}.{name.replace('-', '_')}")


def unknown(name: str, known: list[str], noun: str) -> UsageError:
    """Return the error for a name that is not among the known ones, with the nearest as a hint."""
    near = difflib.get_close_matches(name, known, 1)
    return UsageError(
        f"unknown {noun} {name!r}; there are: {', '.join(known)}",
        hint=f"did you mean {near[0]!r}?" if near else "choose one of those listed",
    )
