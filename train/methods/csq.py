"""CSQ: bits are trained through a sigmoid that hardens; so are gates that say which bits of a layer there are.

Source: CSQ (arXiv 2212.02770). Where the paper and its public code leave a choice, or differ, here:
    start         the bits of the float net's nearest 8-bit integers, as logits of ±`start`; the public code starts at
                  random. All gates are a little open; at zero, as in the public code, none would count as open.
    scale         as in train.methods.bsq.
    exponents     fixed powers of two; the public code trains them by accident (they are parameters).
    hardening     the public code hardens only gates before it evaluates; here bits too, or the evaluated net would not
                  be the integers. It is done before the last epochs, in which one float a weight is trained
                  (train.methods.bsq's fine-tuning): the public code trains on with soft bits.
    budget        the share of open gates is weighted by the layers' sizes, so that it is the model's; the public code
                  counts layers equally, and its average differs from the model's true one. What is still above the
                  budget when bits harden loses the outermost gates that carry least of the weights (`force_budget`).
    stored width  the gates may leave holes. Stored are all planes from the lowest to the highest open gate, and a sign;
                  the paper's own count is that of open gates.
"""

from typing import Any

import lightning as L
import torch
from pydantic import Field
from torch import Tensor, nn

from msq.artefact import Strict
from msq.checkpoint import InputSpec
from msq.errors import BudgetError
from msq.recipe import Activations, Budget
from train.layer_quantizer import Grid, LayerQuantizer, with_gradient
from train.methods.bsq import BITS
from train.quantize import QuantizedModel, Site, quantize
from train.schedule import Phase
from train.signed_quantizer import FixedWidth, split
from train.target import Target


class Options(Strict):
    """Keys of a recipe's `method` section."""

    strength: float = Field(10.0, ge=0)
    """λ: weight of the budget's term, over the mean gate. The paper's 0.01 is over their sum, and for 600 epochs."""
    start: float = Field(0.3, gt=0)
    """Size of the bits' first logits: the smaller, the longer a bit can still change."""
    temperature: float = Field(200.0, gt=1)
    """What the sigmoids' temperature rises to, from 1, exponentially."""
    force_budget: bool = True
    """Close the gates that carry least, until the budget is met, when bits harden."""
    bit_epochs: int = Field(3, ge=1)
    """Epochs in which bits and gates are trained."""
    finetune_epochs: int = Field(2, ge=1)
    """Epochs at the final widths, one float a weight."""
    learning_rate: float = Field(0.1, gt=0)
    """Of the bits, held."""
    finetune_rate: float = Field(0.02, gt=0)
    """Peak of the fine-tuning, annealed to zero."""
    weight_decay: float = Field(0.0, ge=0)
    """On logits it pulls bits towards one half; the public code has 5e-4."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)


GATE = 0.1
"""First logit of every gate."""


class GatedBits(LayerQuantizer):
    """w = scale · Σ_b [σ(T·p_b) − σ(T·n_b)] · σ(T·m_b) · 2^b / (2^N − 1) (CSQ, equations 2 and 3).

    p and n are float32 (N, *weight's shape), the gates m (N,). Soft until hardened: `stored_bits` counts the gates
    that are open now, and `codes` hardens.

    Args:
        weight: the float weight. start: size of the first logits.
    """

    representation = "sign_magnitude"
    per_channel = False
    temperature: Tensor

    def __init__(self, weight: Tensor, start: float = 0.3) -> None:
        super().__init__()
        self._start = start
        self.scale = nn.Parameter(weight.detach().abs().max().clamp_min(1e-8).reshape(1))
        self.gates = nn.Parameter(torch.full((BITS,), GATE))
        self.register_buffer("temperature", torch.ones(()))

    @property
    def open(self) -> list[int]:
        """The planes whose gates are open."""
        return [bit for bit, logit in enumerate(self.gates.detach().tolist()) if logit > 0]

    @property
    def stored_bits(self) -> int:
        """Planes from the lowest to the highest open gate, and the sign."""
        found = self.open
        return found[-1] - found[0] + 2 if found else 0

    @property
    def paper_bits(self) -> int:
        """Open gates."""
        return len(self.open)

    @property
    def grid(self) -> Grid:
        """Sign and magnitude about the middle code."""
        return Grid(self.stored_bits, 1, 1 << (self.stored_bits - 1)) if self.stored_bits else Grid(0, 1, 0)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the bits of the nearest integers."""
        levels = float((1 << BITS) - 1)
        integers = torch.round(weight.abs() / self.scale.detach() * levels).clamp(max=levels)
        planes = split(integers, BITS)
        return tuple(self._start * (2 * planes * side - 1) for side in (weight > 0, weight < 0))  # type: ignore[return-value]

    def forward(self, positive: Tensor, negative: Tensor) -> Tensor:  # type: ignore[override]
        """Return the soft weight."""
        powers = _powers(positive.device) / ((1 << BITS) - 1)
        bits = torch.sigmoid(self.temperature * positive) - torch.sigmoid(self.temperature * negative)
        scale = with_gradient(self.scale.abs(), (bits[0].numel() * (1 << BITS)) ** -0.5)
        weight: Tensor = scale * torch.tensordot(powers * torch.sigmoid(self.temperature * self.gates), bits, 1)
        return weight

    def integers(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Return Σ_b ([p_b > 0] − [n_b > 0]) · [m_b > 0] · 2^b, integer-valued float32."""
        bits = (positive > 0).float() - (negative > 0).float()
        integers: Tensor = torch.tensordot(_powers(positive.device) * (self.gates.detach() > 0), bits, 1)
        return integers

    def codes(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the stored codes and the scale, hardened."""
        hard = self.integers(positive, negative)
        scale = (self.scale.detach().abs() / ((1 << BITS) - 1)).expand(len(hard))
        if not self.open:
            return torch.zeros_like(hard, dtype=torch.uint8), scale.contiguous()
        lowest = 1 << self.open[0]
        return (hard / lowest + self.grid.z).to(torch.uint8), (scale * lowest).contiguous()


def _powers(device: torch.device) -> Tensor:
    return torch.tensor([float(1 << bit) for bit in range(BITS)], device=device)


class Csq(L.Callback):
    """The temperature, and the budget's term: λ · (size / budget − 1) · mean gate (CSQ, equation 4)."""

    def __init__(self, model: QuantizedModel, options: Options, budget: Budget) -> None:
        self.model, self.options, self.target = model, options, Target(budget, model)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let the temperature rise."""
        share = trainer.global_step / max(int(trainer.estimated_stepping_batches), 1)
        for site in self.model.sites:
            _gated(site).temperature.fill_(self.options.temperature**share)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the budget term's gradient to the gates'."""
        self.add_gradient()

    def add_gradient(self) -> None:
        """Add the gradient of the budget's term to that of the gates."""
        for site, gradient in zip(self.model.sites, self.budget_gradient(), strict=True):
            gates = _gated(site).gates
            if gates.grad is not None:
                gates.grad.add_(gradient)

    def budget_gradient(self) -> list[Tensor]:
        """Return the term's gradient in the gate logits of every site; the bracket itself is not differentiated.

        Above the budget it closes gates, below it opens them.
        """
        bracket = self.target.size() / self.target.limit - 1
        gradients = []
        for site in self.model.sites:
            quantizer = _gated(site)
            with torch.no_grad():
                gate = torch.sigmoid(quantizer.temperature * quantizer.gates)
                slope = quantizer.temperature * gate * (1 - gate)
                share = site.numel / self.model.weights / BITS
                gradients.append(self.options.strength * bracket * share * slope)
        return gradients

    def _loss_of_gate(self, site: Site, bit: int) -> float:
        """Change of the weights, as a share of their squares, for what closing an outermost gate saves."""
        quantizer = _gated(site)
        whole = quantizer.integers(*site.trained)
        positive, negative = (part.detach()[bit] > 0 for part in site.trained)
        changed = float((positive != negative).sum()) * float(1 << bit) ** 2
        rest = [other for other in quantizer.open if other != bit]
        saved = self.target.size_of(site, quantizer.stored_bits) - self.target.size_of(site, rest[-1] - rest[0] + 2)
        return changed / max(float(whole.square().sum()), 1.0) / max(saved, 1e-9)

    def harden(self) -> None:
        """Make bits and gates what they are at an infinite temperature, and meet the budget."""
        for site in self.model.sites:
            gates = _gated(site).gates.detach()
            if not site.removable and not _gated(site).open:
                # Nothing would pass a layer without bits that no path goes round.
                gates[gates.argmax()] = 1.0
        while self.options.force_budget and self.target.size() > self.target.limit:
            # Only an outermost gate saves a stored bit; one stays.
            edges = [
                (site, bit)
                for site in self.model.sites
                if _gated(site).stored_bits > 2
                for bit in (_gated(site).open[0], _gated(site).open[-1])
            ]
            if not edges:
                raise BudgetError(
                    f"{self.target.say(self.target.size())} are left at one bit a layer, "
                    f"the budget is {self.target.say(self.target.limit)}",
                    hint="raise the budget",
                )
            site, bit = min(edges, key=lambda edge: self._loss_of_gate(*edge))
            _gated(site).gates.detach()[bit] = -1.0
        for site in self.model.sites:
            quantizer = _gated(site)
            width = max(quantizer.stored_bits - 1, 0)
            with torch.no_grad():
                lowest = 1 << (quantizer.open[0] if quantizer.open else 0)
                step = float(quantizer.scale.abs()) / ((1 << BITS) - 1)
                weight = quantizer.integers(*site.trained) * step
            site.requantize(FixedWidth(width, step * lowest * max((1 << width) - 1, 1)))
            with torch.no_grad():
                site.weight.copy_(weight)


def _gated(site: Site) -> GatedBits:
    quantizer = site.quantizer
    assert isinstance(quantizer, GatedBits)
    return quantizer


def wrap(model: nn.Module, options: Options, activations: Activations, spec: InputSpec) -> QuantizedModel:
    """Return the model with gated bits for every layer, eight stored bits everywhere, not yet calibrated."""
    return quantize(
        model,
        lambda weight: GatedBits(weight, options.start),
        activation_bits=activations.bits,
        activation_range=activations.range,
        input_range=spec.pixel_range(),
    )


def phases(model: QuantizedModel, options: Options, budget: Budget, seed: int) -> tuple[Phase, ...]:
    """Return the training of bits and the fine-tuning. Raises BudgetError where two bits a layer exceed the budget."""
    csq = Csq(model, options, budget)
    least = sum(csq.target.size_of(site, 2) for site in model.sites)
    if options.force_budget and least > csq.target.limit:
        raise BudgetError(
            f"a budget of {csq.target.say(csq.target.limit)} is below {csq.target.say(least)}, "
            "one bit and a sign a layer",
            hint="raise the budget",
        )
    bits = Phase(
        name="csq-bits",
        epochs=options.bit_epochs,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        warmup=0.05,
        hold=1.0,
        callbacks=(csq,),
    )
    tuning = Phase(
        name="csq-finetune",
        epochs=options.finetune_epochs,
        learning_rate=options.finetune_rate,
        weight_decay=1e-4,
        label_smoothing=options.label_smoothing,
        warmup=0.05,
        hold=0.05,
        begin=csq.harden,
    )
    return (bits, tuning)
