"""LSQ: quantization-aware training with learned steps, at one width or at the widths of a bit map.

Source: LSQ (arXiv 1902.08153). Activations are clipped as the recipe says; `activations: {range: pact}` gives PACT's
(arXiv 1805.06085). With `bit_map` a run starts from the allocation of another tool, or of another run.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from msq.artefact import Strict
from msq.bitmap import BitMap
from msq.checkpoint import InputSpec, Representation
from msq.recipe import Activations, Budget
from train.layer_quantizer import Grid, LayerQuantizer
from train.quantize import QuantizedModel, quantize
from train.schedule import Phase
from train.target import Target


class Options(Strict):
    """Keys of a recipe's `method` section."""

    bits: int | None = Field(None, ge=2, le=8)
    """Stored bits of every layer; default: the most that the budget allows everywhere."""
    bit_map: Path | None = None
    """A bit map (JSON) that gives every layer its stored bits, instead of `bits`."""
    per_channel: bool = True
    """One step per output channel; off: one per layer, as in the paper."""
    epochs: int = Field(5, ge=1)
    learning_rate: float = Field(0.02, gt=0)
    """Peak, annealed to zero."""
    weight_decay: float = Field(1e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    distillation: float = Field(0.0, ge=0, le=1)
    """Share of the loss that is the distance to the float net's softened answers."""


class LsqQuantizer(LayerQuantizer):
    """w = s · clamp(round(w/s), −2^(b−1), 2^(b−1) − 1) with a trained step s; 0 bits is an empty layer.

    The step starts at 2·mean|w|/√Q, its gradient is scaled by 1/√(N·Q), Q = 2^(b−1) − 1, N weights a step
    (LSQ, sections 2.1 and 2.2).

    Args:
        weight: the float weight, for the step's start. bits: stored width, 0 or 2..8.
    """

    bits: Tensor
    representation: Representation = "twos_complement"

    def __init__(self, weight: Tensor, bits: int, per_channel: bool = True) -> None:
        super().__init__()
        self.per_channel = per_channel
        self.step = nn.Parameter(torch.ones(weight.shape[0] if per_channel else 1))
        self.register_buffer("bits", torch.tensor(bits))
        self.set_bits(bits, weight)

    def set_bits(self, bits: int, weight: Tensor) -> None:
        """Set the width, and start the step anew for it."""
        self.bits.fill_(bits)
        self._bits = bits
        magnitude = weight.detach().abs().flatten(1)
        mean = magnitude.mean(1) if self.per_channel else magnitude.mean().reshape(1)
        with torch.no_grad():
            # A channel of zeros has no step of its own.
            self.step.copy_((2 * mean / max(self._top, 1) ** 0.5).clamp_min(1e-8))

    @property
    def _top(self) -> int:
        return (1 << (self._bits - 1)) - 1 if self._bits else 0

    @property
    def stored_bits(self) -> int:
        """Stored bits a weight."""
        return self._bits

    @property
    def paper_bits(self) -> int:
        """Stored bits: two's complement has no sign apart."""
        return self._bits

    @property
    def grid(self) -> Grid:
        """Two's complement."""
        return Grid(self._bits, 1, 1 << (self._bits - 1)) if self._bits else Grid(0, 1, 0)

    def forward(self, weight: Tensor) -> Tensor:  # type: ignore[override]
        """Return the quantized weight; float32, differentiable in weight and step."""
        if self._bits == 0:
            return torch.zeros_like(weight)
        factor = (weight.numel() / self.step.numel() * self._top) ** -0.5
        # The step to its last bit, or a weight half-way between two codes would end in another than `codes` says; only
        # its gradient is scaled.
        scaled = self.step * factor
        step = (self.step.detach() + (scaled - scaled.detach())).abs()
        step = step.reshape(-1, *[1] * (weight.dim() - 1))
        ratio = torch.clamp(weight / step, -self._top - 1, self._top)
        quantized: Tensor = (ratio + (torch.round(ratio) - ratio).detach()) * step
        return quantized

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the stored codes and the steps."""
        step = self.step.detach().abs().float()
        scale = step.expand(weight.shape[0]).contiguous()
        if self._bits == 0:
            return torch.zeros_like(weight, dtype=torch.uint8), scale
        rows = step.reshape(-1, *[1] * (weight.dim() - 1))
        integers = torch.round(torch.clamp(weight.detach() / rows, -self._top - 1, self._top))
        return (integers + self._top + 1).to(torch.uint8), scale

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._bits = int(self.bits)


def wrap(model: nn.Module, options: Options, activations: Activations, spec: InputSpec) -> QuantizedModel:
    """Return the model with steps for every layer. Raises RecipeError where the bit map does not fit the model."""
    wrapped = quantize(
        model,
        lambda weight: LsqQuantizer(weight, options.bits or 8, options.per_channel),
        activation_bits=activations.bits,
        activation_range=activations.range,
        input_range=spec.pixel_range(),
    )
    if options.bit_map is not None:
        set_widths(wrapped, BitMap.read(options.bit_map).widths([site.name for site in wrapped.sites]))
    return wrapped


def phases(model: QuantizedModel, options: Options, budget: Budget, seed: int) -> tuple[Phase, ...]:
    """Return how the wrapped model is trained. Raises BudgetError where its widths are above the budget."""
    target = Target(budget, model)
    if options.bits is None and options.bit_map is None:
        fitting = [
            bits
            for bits in range(2, 9)
            if sum(target.size_of(site, bits) for site in model.sites) <= target.limit or bits == 2
        ]
        set_widths(model, {site.name: fitting[-1] for site in model.sites})
    target.check()
    return (training(options),)


def training(options: Options) -> Phase:
    """Return the one phase of a training at fixed widths."""
    return Phase(
        name="lsq",
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        distillation=options.distillation,
        warmup=0.05,
        hold=0.4,
    )


def set_widths(model: QuantizedModel, widths: dict[str, int]) -> None:
    """Give every site its stored bits, and start its steps anew."""
    for site in model.sites:
        quantizer = site.quantizer
        assert isinstance(quantizer, LsqQuantizer)
        quantizer.set_bits(widths[site.name], site.weight)
