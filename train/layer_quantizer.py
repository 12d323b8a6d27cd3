"""The contract of a weight quantizer: how a layer's weight is made, and in which stored integers it ends."""

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from msq.checkpoint import Representation


class Grid(NamedTuple):
    """The stored integers of a layer: weight = scale · (a·u − z) with a code u of `bits` bits (msq.nodes)."""

    bits: int
    a: int
    z: int


def with_gradient(step: Tensor, factor: float) -> Tensor:
    """Return the very step, bit for bit, with its gradient multiplied by a factor.

    A step is one number for many weights, and their gradients add up; 1/√(N·Q) of N weights and Q levels a side brings
    its updates, relative to its size, to those of a weight (LSQ, arXiv 1902.08153, section 2.2).
    """
    return step.detach() + factor * (step - step.detach())


class LayerQuantizer(nn.Module):
    """Makes a layer's weight of the tensors that are trained; registered as a parametrization of `weight`.

    Most methods train one float tensor of the weight's shape. One that trains others (bit planes) has a
    `right_inverse(weight)` that returns them, as torch.nn.utils.parametrize asks. Whatever is trained, `codes`
    must say exactly the integers of which `forward` makes the weight, once training is over.
    """

    per_channel: bool
    """One scale per output channel, or one for the layer."""
    representation: Representation

    @property
    @abstractmethod
    def stored_bits(self) -> int:
        """Stored bits a weight, sign included, 0..8: what is reported, and what the budget counts."""

    @property
    @abstractmethod
    def paper_bits(self) -> int:
        """Bits a weight as the method's own paper counts them, most often without the sign."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """How the stored codes are read."""

    @abstractmethod
    def forward(self, *trained: Tensor) -> Tensor:
        """Return the dequantized weight, float32."""

    @abstractmethod
    def codes(self, *trained: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stored codes (uint8, the weight's shape) and the scale of a code step (float32, (out,))."""
