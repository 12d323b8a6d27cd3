"""HAWQ: widths by an exact integer program over trace-weighted perturbations, then training at those widths.

Source: HAWQ-V2 (arXiv 1911.03852) for Ω_l(b) = (Tr(H_l) / n_l) · ‖Q_b(W_l) − W_l‖², HAWQ-V3 (arXiv 2011.10680) for the
integer program: minimise Σ Ω_l(b_l) within the budget. Training at the widths found is LSQ's (train.methods.lsq).
"""

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from msq.checkpoint import InputSpec
from msq.errors import BudgetError
from msq.recipe import Activations, Budget
from train.hessian import layer_traces
from train.methods import lsq
from train.quantize import QuantizedModel
from train.schedule import Phase
from train.target import Target


class Options(lsq.Options):
    """Keys of a recipe's `method` section: those of lsq that give no widths, and these."""

    bits: None = None
    """Not given: the widths are what is sought."""
    bit_map: None = None
    """Not given: the widths are what is sought."""
    first_last_bits: None = None
    """Not given: the widths are what is sought."""
    least_bits: int = Field(2, ge=2, le=8)
    """Fewest stored bits that a layer can get; the most are 8."""
    hessian_samples: int = Field(32, ge=1)
    """Random vectors of the traces, at most."""
    hessian_batch: int = Field(64, ge=1)
    """Images of the traces."""
    tolerance: float = Field(1e-2, gt=0)
    """The traces are good enough when a further vector changes their sum by less than this share."""


def allocate(harm: NDArray[np.float64], size: NDArray[np.float64], limit: float) -> list[int]:
    """Return for every layer the index of the width that minimises the summed harm within the limit.

    Args:
        harm: float64 (layers, widths), Ω_l(b). size: same shape, what a layer of a width takes. limit: for the sum.
    Raises:
        BudgetError: not even the smallest widths fit.
    """
    layers, choices = harm.shape
    if size.min(axis=1).sum() > limit:
        raise BudgetError(
            f"the smallest widths take {size.min(axis=1).sum():.6g}, the budget is {limit:.6g}",
            hint="raise the budget, or allow smaller widths",
        )
    # One variable says that a layer has a width; a layer has exactly one.
    one_each = np.kron(np.eye(layers), np.ones(choices))
    # Solvers work to absolute tolerances, which numbers of order one suit.
    scaled = harm.ravel() / max(float(np.abs(harm).max()), 1e-300)
    # A solver's tolerance must not overspend, so the limit is drawn in by less than one weight's bit.
    budget = LinearConstraint(size.reshape(1, -1) / limit, ub=1 - 1e-9)
    solved = milp(
        scaled,
        integrality=np.ones(harm.size),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), budget],
        options={"mip_rel_gap": 0},
    )
    if solved.x is None:
        raise BudgetError(f"no widths were found for the budget: {solved.message}")
    chosen = [int(choice) for choice in solved.x.reshape(harm.shape).argmax(axis=1)]
    spent = size[np.arange(layers), chosen].sum()
    # A solver takes nearly whole numbers for whole ones; what is made of them must fit, too.
    if spent > limit:
        raise BudgetError(
            f"the widths found take {spent:.6g}, the budget is {limit:.6g}", hint="lower the budget a bit"
        )
    return chosen


def least_error(weight: Tensor, bits: int, per_channel: bool) -> float:
    """Return the least ‖Q_b(W) − W‖² over clipping ranges, each output channel (or the tensor) its own.

    It is what a layer of these bits can be had for; the start of LSQ's training is further off, and not by bits alone.

    Args:
        weight: float32, outputs first. bits: 2..8, two's complement.
    """
    rows = weight.flatten(1) if per_channel else weight.reshape(1, -1)
    top = float((1 << (bits - 1)) - 1)
    widest = rows.abs().amax(1, keepdim=True).clamp_min(1e-12)
    best = rows.square().sum(1)
    for share in torch.linspace(1.0, 0.1, 46).tolist():
        step = widest * (share / top)
        error = (torch.clamp(torch.round(rows / step), -top - 1, top) * step - rows).square().sum(1)
        best = torch.minimum(best, error)
    return float(best.sum())


def widths(options: Options) -> range:
    """Return the stored widths that a layer can get."""
    return range(options.least_bits, 9)


class Allocation(L.Callback):
    """Chooses the widths before the first step, from the curvature on one batch.

    Args:
        model: quantized by LsqQuantizer. target: the budget. seed: of the random vectors.
    """

    def __init__(self, model: QuantizedModel, options: Options, target: Target, seed: int) -> None:
        self.model, self.options, self.target, self._seed = model, options, target, seed
        self.omega: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the widths, unless a checkpoint brought them."""
        if self.omega:
            return
        batch = next(iter(trainer.train_dataloader))  # type: ignore[arg-type]
        part = tuple(item[: self.options.hessian_batch].to(pl_module.device) for item in batch)
        pl_module.eval()
        try:
            with self.model.unrounded():
                traces = self._traces(lambda: pl_module.loss(part))  # type: ignore[operator]
        finally:
            pl_module.train()
        self.choose(traces)

    def choose(self, traces: Sequence[float]) -> None:
        """Set every layer's width, given Tr(H_l) of every layer."""
        candidates = widths(self.options)
        harm = np.zeros((len(traces), len(candidates)))
        size = np.zeros_like(harm)
        for row, (site, trace) in enumerate(zip(self.model.sites, traces, strict=True)):
            for column, bits in enumerate(candidates):
                lost = least_error(site.weight.detach(), bits, self.options.per_channel)
                # Away from a minimum an estimate can be negative, which would make any error welcome.
                harm[row, column] = max(trace, 0.0) / site.numel * lost
                size[row, column] = self.target.size_of(site, bits)
        chosen = allocate(harm, size, self.target.limit)
        lsq.set_widths(self.model, {s.name: candidates[c] for s, c in zip(self.model.sites, chosen, strict=True)})
        self.omega = {
            s.name: float(harm[row, c]) for row, (s, c) in enumerate(zip(self.model.sites, chosen, strict=True))
        }

    def _traces(self, loss: Any) -> list[float]:
        """Return Tr(H_l), averaged over random vectors until a further one hardly matters."""
        weights = [site.weight for site in self.model.sites]
        generator = torch.Generator().manual_seed(self._seed)
        total = torch.zeros(len(weights))
        for count in range(1, self.options.hessian_samples + 1):
            estimate, _ = layer_traces(loss, weights, 1, generator)
            before = float(total.sum()) / max(count - 1, 1)
            total += estimate.cpu()
            after = float(total.sum()) / count
            if count > 1 and abs(after - before) <= self.options.tolerance * abs(before):
                break
        mean = total / count
        if torch.distributed.is_initialized():
            # Every process saw its own images, and may have stopped after another number of vectors.
            mean = mean.to(weights[0].device)
            torch.distributed.all_reduce(mean)
            mean /= torch.distributed.get_world_size()
        traces: list[float] = mean.tolist()
        return traces

    def measures(self) -> dict[str, tuple[float | None, float | None]]:
        """Return (no β, Ω) of every site."""
        return {name: (None, omega) for name, omega in self.omega.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what says that the widths are chosen; they themselves are in the model."""
        return {"omega": self.omega}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.omega = state_dict["omega"]


def wrap(model: nn.Module, options: Options, activations: Activations, spec: InputSpec) -> QuantizedModel:
    """Return the model with eight stored bits in every layer, until the allocation."""
    return lsq.wrap(model, options, activations, spec)


def phases(model: QuantizedModel, options: Options, budget: Budget, seed: int) -> tuple[Phase, ...]:
    """Return how the wrapped model is trained. Raises BudgetError where the smallest widths are above the budget."""
    target = Target(budget, model)
    least = sum(min(target.size_of(site, bits) for bits in widths(options)) for site in model.sites)
    if least > target.limit:
        raise BudgetError(
            f"the smallest widths take {target.say(least)}, the budget is {target.say(target.limit)}",
            hint="raise the budget, or allow smaller widths",
        )
    allocation = Allocation(model, options, target, seed)
    phase = lsq.training(options)
    return (Phase(**{**vars(phase), "name": "hawq", "callbacks": (allocation,), "measures": allocation.measures}),)
