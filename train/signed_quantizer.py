"""Integers of a sign and N bits with one trained scale a layer: what bit-level methods go on with, once bits are found.

Source: BSQ (arXiv 2102.10462), section 3.1 and its fine-tuning.
"""

from typing import Any

import torch
from torch import Tensor, nn

from msq.checkpoint import Representation
from train.layer_quantizer import Grid, LayerQuantizer, with_gradient


class SignedQuantizer(LayerQuantizer):
    """Integers in ±(2^N − 1), one scale a layer; stored as a sign and N bits."""

    width: Tensor
    representation: Representation = "sign_magnitude"
    per_channel = False

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("width", torch.tensor(width))
        self.scale = nn.Parameter(torch.tensor([scale]))
        self._width = width

    @property
    def n(self) -> int:
        """Planes: bits without the sign."""
        return self._width

    def set_n(self, n: int) -> None:
        """Set the number of planes."""
        self._width = n
        self.width.fill_(n)

    @property
    def stored_bits(self) -> int:
        """The sign costs one bit more."""
        return self._width + 1 if self._width else 0

    @property
    def paper_bits(self) -> int:
        """The paper leaves the sign out."""
        return self._width

    @property
    def grid(self) -> Grid:
        """Sign and magnitude about the middle code."""
        return Grid(self.stored_bits, 1, 1 << self._width) if self._width else Grid(0, 1, 0)

    def step(self, weights: int) -> Tensor:
        """Return scale / (2^N − 1), its gradient brought to the size of a weight's."""
        levels = float(max((1 << self._width) - 1, 1))
        return with_gradient(self.scale.abs(), (weights * levels) ** -0.5) / levels

    def stored(self, integers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stored codes of integer-valued float32, and the scale of a code step, (out,)."""
        levels = float(max((1 << self._width) - 1, 1))
        codes = integers + float(1 << self._width) if self._width else torch.zeros_like(integers)
        return codes.to(torch.uint8), (self.scale.detach().abs() / levels).float().expand(len(integers)).contiguous()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._width = int(self.width)


class FixedWidth(SignedQuantizer):
    """w = scale · round(clamp(w / scale, ±1) · (2^N − 1)) / (2^N − 1): BSQ's fine-tuning, one float a weight."""

    def forward(self, weight: Tensor) -> Tensor:  # type: ignore[override]
        """Return the quantized weight."""
        if self.n == 0:
            return torch.zeros_like(weight)
        levels = float((1 << self.n) - 1)
        step = self.step(weight.numel())
        ratio = torch.clamp(weight / step, -levels, levels)
        quantized: Tensor = (ratio + (torch.round(ratio) - ratio).detach()) * step
        return quantized

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the stored codes and the scale."""
        levels = float((1 << self.n) - 1)
        step = self.scale.detach().abs() / max(levels, 1.0)
        return self.stored(torch.round(torch.clamp(weight.detach() / step, -levels, levels)))


def split(integers: Tensor, planes: int) -> Tensor:
    """Return the bits of non-negative integer-valued float32, lowest plane first: (planes, *shape)."""
    return torch.stack([torch.remainder(torch.floor(integers / 2**bit), 2) for bit in range(planes)])


def join(planes: Tensor) -> Tensor:
    """Return Σ_b planes_b · 2^b."""
    powers = torch.tensor([float(1 << bit) for bit in range(len(planes))], device=planes.device)
    joined: Tensor = torch.tensordot(powers, planes, 1)
    return joined
