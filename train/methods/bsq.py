"""BSQ: every bit of every weight is trained; a group lasso empties whole bit planes, which are then dropped.

Source: BSQ (arXiv 2102.10462). Where the paper and its public code leave a choice, or differ, here:
    planes        two sets a layer, for positive and negative parts, trained at 0..2 (after each step): 16 numbers a
                  weight at 8 bits. The paper's convention counts one set: 8.
    clamping      the public code clamps by the names of tensors and so also clamps what it does not quantize; here only
                  planes are clamped.
    layers        all convolutions and linear layers are quantized, shortcuts too, for all are deployed.
    activations   this project's, as for every method, instead of ReLU6 or PACT and a dynamic maximum.
    scale         its gradient is scaled as LSQ scales a step's; in the public code it is not, and at the rates of a
                  short schedule it runs away.
    momentum      lost at every re-quantization, as in the public code: planes change their number.
    budget        BSQ has none; its strength decides how many bits are left. With `force_budget` (our addition, without
                  which methods could not be compared at one size) re-quantizations drop no further once it is met, and
                  the last one drops the lowest planes that weigh least until it is.
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
from train.quantize import QuantizedModel, Site, quantize
from train.schedule import Phase
from train.signed_quantizer import FixedWidth, SignedQuantizer, join, split
from train.target import Target

BITS = 7
"""Planes at the start: with the sign, eight stored bits."""


class Options(Strict):
    """Keys of a recipe's `method` section."""

    strength: float = Field(0.15, ge=0)
    """α: weight of the group lasso. The paper's 5e-3 is for 350 epochs; what it does grows with rate times steps."""
    requantizations: int = Field(6, ge=1)
    """How often, evenly over the training of bits and at its end, planes are made integers and empty ones dropped."""
    force_budget: bool = True
    """Meet the budget exactly as far as planes allow; off: end where the group lasso ends."""
    bit_epochs: int = Field(3, ge=1)
    """Epochs in which bits are trained."""
    finetune_epochs: int = Field(2, ge=0)
    """Epochs at the final widths, one float a weight."""
    learning_rate: float = Field(0.1, gt=0)
    """Of the bits, held."""
    finetune_rate: float = Field(0.02, gt=0)
    """Peak of the fine-tuning, annealed to zero."""
    weight_decay: float = Field(1e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class BitPlanes(SignedQuantizer):
    """w = scale · round(Σ_b (p_b − n_b) 2^b) / (2^N − 1), clamped to ±scale, over trained planes p and n.

    Both are float32 (N, *weight's shape). The gradient passes through rounding and clamp: plane b gets
    ±2^b / (2^N − 1) · scale · g (BSQ, equation 3).

    Args:
        weight: the float weight. planes: N.
    """

    def __init__(self, weight: Tensor, planes: int = BITS) -> None:
        super().__init__(planes, max(float(weight.abs().max()), 1e-8))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the planes of the nearest integers (BSQ, section 3.1)."""
        levels = float((1 << self.n) - 1)
        integers = torch.round(weight.abs() / self.scale.detach().abs() * levels).clamp(max=levels)
        planes = split(integers, self.n)
        return planes * (weight > 0), planes * (weight < 0)

    def forward(self, positive: Tensor, negative: Tensor) -> Tensor:  # type: ignore[override]
        """Return the weight."""
        if self.n == 0:
            return torch.zeros(positive.shape[1:], device=positive.device)
        levels = float((1 << self.n) - 1)
        value = join(positive - negative)
        rounded = torch.clamp(torch.round(value.detach()), -levels, levels)
        # Integer times step, in this order, is what the stored codes give.
        weight: Tensor = (value + (rounded - value).detach()) * self.step(rounded.numel())
        return weight

    def codes(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the stored codes and the scale."""
        levels = float((1 << self.n) - 1)
        return self.stored(torch.clamp(torch.round(join(positive - negative)), -levels, levels))


def group_lasso(planes: tuple[Tensor, Tensor], share: float) -> tuple[Tensor, Tensor]:
    """Return the gradient of share · N · Σ_b √(1e-8 + ‖[p_b; n_b]‖²) in both sets of planes.

    Args:
        planes: p and n, each (N, *shape). share: the layer's share of all weights times the strength.
    Source: BSQ, equations 4 and 5 (memory-aware reweighing).
    """
    with torch.no_grad():
        squares = planes[0].flatten(1).square().sum(1) + planes[1].flatten(1).square().sum(1)
        norms = torch.sqrt(1e-8 + squares).reshape(-1, *[1] * (planes[0].dim() - 1))
        factor = share * len(planes[0])
        return planes[0] * (factor / norms), planes[1] * (factor / norms)


class Bsq(L.Callback):
    """The group lasso, the clamp, and the re-quantizations of the bit training."""

    def __init__(self, model: QuantizedModel, options: Options, budget: Budget) -> None:
        self.model, self.options, self.target = model, options, Target(budget, model)
        self.done = 0

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the group lasso's gradient."""
        self.add_gradient()

    def add_gradient(self) -> None:
        """Add the gradient of the group lasso to that of the planes."""
        for site in self.model.sites:
            positive, negative = site.trained
            if positive.grad is None or negative.grad is None or not len(positive):
                continue
            share = self.options.strength * site.numel / self.model.weights
            for part, gradient in zip((positive, negative), group_lasso((positive, negative), share), strict=True):
                assert part.grad is not None
                part.grad.add_(gradient)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Clamp the planes, and re-quantize when it is time."""
        self.clamp()
        steps = int(trainer.estimated_stepping_batches)
        due = self.options.requantizations * trainer.global_step // steps
        if due > self.done:
            self.done = due
            self.requantize(last=due == self.options.requantizations)
            for optimizer in trainer.optimizers:
                optimizer.state.clear()

    def clamp(self) -> None:
        """Keep the planes within 0..2."""
        with torch.no_grad():
            for site in self.model.sites:
                for part in site.trained:
                    part.clamp_(0, 2)

    def requantize(self, last: bool) -> None:
        """Make the planes integers again and drop the empty ones; the last time, meet the budget."""
        for site in self.model.sites:
            met = self.options.force_budget and self.target.size() <= self.target.limit
            set_integers(site, *drop_empty(*to_integers(site), keep=met))
        while last and self.options.force_budget and self.target.size() > self.target.limit:
            spare = [site for site in self.model.sites if _planes(site).n > 1]
            if not spare:
                raise BudgetError(
                    f"{self.target.say(self.target.size())} are left at one bit a layer, "
                    f"the budget is {self.target.say(self.target.limit)}",
                    hint="raise the budget",
                )
            cheapest = min(spare, key=self._loss_of_lowest)
            integers, n, scale = to_integers(cheapest)
            step = scale / ((1 << n) - 1)
            limit = float((1 << (n - 1)) - 1)
            # Half to even: odd integers go to either side, so that weights neither grow nor shrink.
            set_integers(
                cheapest, torch.round(integers / 2).clamp(-limit, limit), n - 1, 2 * step * ((1 << (n - 1)) - 1)
            )

    def _loss_of_lowest(self, site: Site) -> float:
        """Change of the weights, as a share of their squares, for what dropping the lowest plane saves."""
        integers, n, _ = to_integers(site)
        saved = self.target.size_of(site, n + 1) - self.target.size_of(site, n)
        # A share, for behind a batch norm the size of a layer's weights means nothing.
        share = float(torch.remainder(integers, 2).sum()) / max(float(integers.square().sum()), 1.0)
        return share / max(saved, 1e-9)

    def state_dict(self) -> dict[str, Any]:
        """Return how many re-quantizations were done; widths are in the model."""
        return {"done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.done = state_dict["done"]


def to_integers(site: Site) -> tuple[Tensor, int, float]:
    """Return (integer-valued float32, planes N, scale); N is one more where they have grown beyond N planes.

    Beyond seven planes there are none: larger values are clamped.
    """
    quantizer = _planes(site)
    n, scale = quantizer.n, float(quantizer.scale.detach().abs())
    positive, negative = site.trained
    with torch.no_grad():
        integers = torch.round(join(positive - negative)) if n else torch.zeros(site.shape, device=positive.device)
    if n and float(integers.abs().max()) > (1 << n) - 1 and n < BITS:
        scale *= ((1 << (n + 1)) - 1) / ((1 << n) - 1)
        n += 1
    limit = float((1 << n) - 1)
    return integers.clamp(-limit, limit), n, scale


def drop_empty(integers: Tensor, n: int, scale: float, keep: bool = False) -> tuple[Tensor, int, float]:
    """Drop empty planes from the top and from the bottom; no weight changes. At least one plane stays.

    keep: drop nothing.
    """
    step = scale / ((1 << n) - 1) if n else scale
    while not keep and n > 1 and float(integers.abs().max()) < 1 << (n - 1):
        n -= 1
    while not keep and n > 1 and not bool(torch.remainder(integers, 2).any()):
        integers, step, n = integers / 2, step * 2, n - 1
    return integers, n, step * ((1 << n) - 1) if n else scale


def set_integers(site: Site, integers: Tensor, n: int, scale: float) -> None:
    """Make a site's planes those of the integers."""
    quantizer = _planes(site)
    quantizer.set_n(n)
    planes = split(integers.abs(), n)
    with torch.no_grad():
        quantizer.scale.fill_(scale)
        for part, side in zip(site.trained, (integers > 0, integers < 0), strict=True):
            # In place of its data, so that the optimizer goes on with the parameter; fewer planes are less work.
            part.data = (planes * side).contiguous()
            part.grad = None


def _planes(site: Site) -> BitPlanes:
    quantizer = site.quantizer
    assert isinstance(quantizer, BitPlanes)
    return quantizer


def wrap(model: nn.Module, options: Options, activations: Activations, spec: InputSpec) -> QuantizedModel:
    """Return the model with planes for every layer, eight stored bits everywhere, not yet calibrated."""
    wrapped = quantize(
        model,
        BitPlanes,
        activation_bits=activations.bits,
        activation_range=activations.range,
        input_range=spec.pixel_range(),
    )
    for site in wrapped.sites:
        site.layer.parametrizations["weight"].register_load_state_dict_pre_hook(_take_shapes)  # type: ignore[index,union-attr]
    return wrapped


def _take_shapes(module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    """Give the planes the number that a saved state has, before it is loaded."""
    for name, parameter in module.named_parameters(recurse=False):
        if (saved := state.get(prefix + name)) is not None and saved.shape != parameter.shape:
            parameter.data = torch.empty_like(saved, device=parameter.device)


def phases(model: QuantizedModel, options: Options, budget: Budget, seed: int) -> tuple[Phase, ...]:
    """Return the training of bits and the fine-tuning. Raises BudgetError where two bits a layer exceed the budget."""
    target = Target(budget, model)
    least = sum(target.size_of(site, 2) for site in model.sites)
    if options.force_budget and least > target.limit:
        raise BudgetError(
            f"a budget of {target.say(target.limit)} is below {target.say(least)}, one bit and a sign a layer",
            hint="raise the budget",
        )
    bits = Phase(
        name="bsq-bits",
        epochs=options.bit_epochs,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        warmup=0.05,
        hold=1.0,
        callbacks=(Bsq(model, options, budget),),
    )
    tuning = Phase(
        name="bsq-finetune",
        epochs=options.finetune_epochs,
        learning_rate=options.finetune_rate,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        warmup=0.05,
        hold=0.05,
        begin=lambda: _to_fixed_width(model),
    )
    return (bits, tuning) if options.finetune_epochs else (bits,)


def _to_fixed_width(model: QuantizedModel) -> None:
    for site in model.sites:
        planes = _planes(site)
        site.requantize(FixedWidth(planes.n, float(planes.scale.detach().abs())))
