"""Lowerings by name, one file each: an integer model becomes the model file of a runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from msq import plugins
from msq.integer_model import IntegerModel


class Lowering(Protocol):
    """What a module of this package offers."""

    NAME: str
    """What a runtime says it reads, and the manifest records."""
    DEPLOYED: Sequence[str]
    """The files that the runtime loads; their sizes add up to the model's size."""
    PACKAGES: Sequence[str]
    """Distributions whose releases shape the model file; the manifest records them."""

    def content_bytes(self, model: IntegerModel) -> int:
        """Return the bytes of weights and parameters in the format's own containers: what a file cannot go below.

        A format of machine code adds what its code takes, which does not depend on bits.
        """
        ...

    def lower(self, model: IntegerModel, folder: Path) -> list[str]:
        """Write the model files into a folder that holds model.json and weights.bin; return their names.

        Raises:
            LoweringError: the format cannot say what the model says.
        """
        ...


@runtime_checkable
class MachineLowering(Lowering, Protocol):
    """A lowering to machine code."""

    PROCESSORS: Mapping[str, Any]
    """What code can be made for, by name."""

    def lower(self, model: IntegerModel, folder: Path, processors: Sequence[str] = ()) -> list[str]:
        """Write the model files of all usual machines, for the processors that are named: at most one of a machine.

        Raises:
            UsageError: there is no such processor, or two are of one machine.
            LoweringError: the format cannot say what the model says, or what is linked into it is missing.
        """
        ...


@runtime_checkable
class ChoosyLowering(Lowering, Protocol):
    """A lowering whose files do not run in all runtimes of their format."""

    def good_for(self, folder: Path) -> tuple[str, ...]:
        """Return the runtimes, with their releases, that run the lowered model in a folder."""
        ...


def lowering(name: str) -> Lowering:
    """Return the lowering of that name. Raises UsageError."""
    module: Any = plugins.load(__name__, name, "lowering")
    return module  # type: ignore[no-any-return]
