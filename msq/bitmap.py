"""The bit map: stored bits per layer, alone, so that another tool's allocation can be used and ours exported."""

import difflib
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from msq.artefact import Artefact
from msq.checkpoint import Checkpoint
from msq.errors import RecipeError


class BitMap(Artefact):
    """bits maps a module path to its stored width (sign included), 0..8."""

    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    bits: dict[str, Annotated[int, Field(ge=0, le=8)]] = Field(description="module path → stored bits")

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "BitMap":
        """Return the bit map of a checkpoint."""
        return cls(bits={site.name: site.bits for site in checkpoint.sites})

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        """Return the widths of a model's layers.

        Args:
            names: the model's quantized layers.
        Raises:
            RecipeError: the map names a layer that the model lacks, or lacks one that the model has.
        """
        unknown = [name for name in self.bits if name not in names]
        if unknown:
            near = difflib.get_close_matches(unknown[0], names, 1)
            raise RecipeError(
                f"the bit map names {_listed(unknown)}, which the model does not have",
                hint=f"did you mean {near[0]}?" if near else f"the model's layers are {_listed(list(names))}",
            )
        missing = [name for name in names if name not in self.bits]
        if missing:
            raise RecipeError(f"the bit map has no width for {_listed(missing)}", hint="give every layer its bits")
        return {name: self.bits[name] for name in names}


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
