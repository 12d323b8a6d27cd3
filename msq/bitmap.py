"""The bit map: stored bits per layer, alone, so that another tool's allocation can be used and ours exported."""

from typing import Literal

from pydantic import Field

from msq.artefact import Artefact
from msq.checkpoint import Checkpoint


class BitMap(Artefact):
    """bits maps a module path to its stored width (sign included), 0..8."""

    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    bits: dict[str, int] = Field(description="module path → stored bits")

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "BitMap":
        """Return the bit map of a checkpoint."""
        return cls(bits={site.name: site.bits for site in checkpoint.sites})
