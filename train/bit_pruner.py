"""The rule of MSQ: which layers empty and drop their low bits, how many at once, and when.

Source: MSQ (arXiv 2507.22349). Ω is HAWQ-V2's average trace times perturbation (arXiv 1911.03852).
"""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from msq.artefact import Strict
from msq.checkpoint import Representation
from msq.errors import BudgetError
from train.hessian import layer_traces
from train.quantize import QuantizedModel, Site
from train.weight_quantizer import stored_bits


class PruningRule(Strict):
    """What decides how bits go; part of a recipe's `method` section. What the paper leaves open is said here."""

    representation: Representation = "sign_magnitude"
    """sign_magnitude keeps a zero level down to two stored bits; offset reaches one stored bit."""
    strength: float = Field(1e-3, ge=0)
    """λ: what the L1 term moves a normalised weight by, per unit of learning rate and step."""
    alpha: float = Field(0.35, ge=0, le=1)
    """α: a layer drops its low bits when the share β of weights that use them is below this."""
    interval: int = Field(60, ge=1)
    """Steps between two looks at β."""
    keep_pace: bool = True
    """Drop bits along a straight line from the first width to the budget: no faster, and where the thresholds are
    behind it, also a bit of the layer that suffers least. Off: only β < α decides, and the budget may be missed."""
    minimum_bits: int | None = Field(None, ge=0, le=8)
    """Stored bits that every layer keeps; default: the fewest that still hold a value. 0: a layer that a residual
    path goes round may end empty."""
    hessian_samples: int = Field(2, ge=0)
    """Random vectors of a trace estimate; 0 leaves the Hessian out: every layer loses one bit at a time."""
    hessian_batch: int = Field(64, ge=1)
    """Images of a trace estimate."""


class BitPruner:
    """The state of MSQ over a model: who may lose how many bits, and the rule by which they go.

    Args:
        model: the quantized model; widths are set in place.
        rule: the method's options. target: stored bits a weight to reach.
    Raises:
        BudgetError: the target is below what the layers' smallest widths give.
    """

    def __init__(self, model: QuantizedModel, rule: PruningRule, target: float) -> None:
        self.model, self.rule, self.target, self.events = model, rule, target, 1
        self.floor = {site.name: self._smallest_n(site) for site in model.sites}
        bits = {s.name: stored_bits(rule.representation, self.floor[s.name]) for s in model.sites}
        least = sum(bits[s.name] * s.numel for s in model.sites) / model.weights
        if target < least:
            raise BudgetError(
                f"a budget of {target:g} bits a weight is below {least:.2f}, "
                f"the least that {rule.representation} weights take at 1 bit a layer",
                hint=f"raise budget.average_bits to {least:.2f} or more"
                + (", or use representation: offset" if rule.representation == "sign_magnitude" else ""),
            )
        self.start = model.average_bits
        self.event = 0
        self.drop = {site.name: 1 for site in model.sites}
        """p: how many low bits a layer is emptying."""
        self.beta: dict[str, float] = {}
        self.omega: dict[str, float] = {}
        self.trace: dict[str, float] = {}

    def set_events(self, events: int) -> None:
        """Say after how many looks the budget must be met; the pace is a straight line to there."""
        self.events = max(events, 1)

    @property
    def done(self) -> bool:
        """Whether the budget is met: the widths are final."""
        return self.model.average_bits <= self.target

    def add_penalty_gradient(self) -> None:
        """Add the gradient of λ Σ|B_p| to the weights' gradients.

        Added to the gradient, the term needs neither a graph nor a change to the user's loss.
        """
        for site in self.model.sites:
            quantizer, weight = site.quantizer, site.weight
            if weight.grad is None or quantizer.n <= self.floor[site.name]:
                continue
            drop = min(self.drop[site.name], quantizer.n - self.floor[site.name])
            weight.grad.add_(quantizer.penalty_gradient(weight, drop), alpha=self.rule.strength)

    def prune(self, loss: Callable[[], Tensor], generator: torch.Generator) -> None:
        """Look at β, drop the bits that are empty enough, those that cost least first, and renew Ω and p.

        Args:
            loss: the task loss on one batch, differentiable twice. generator: for Hutchinson's vectors.
        """
        self.event += 1
        if self.rule.hessian_samples:
            self._estimate_traces(loss, generator)
        self._measure()
        # Bits that go faster than the pace take away what the weights were to adapt to one by one.
        goal = self._pace() if self.rule.keep_pace else self.target
        for site in sorted(self._spare(), key=self._cost):
            if self.beta[site.name] < self.rule.alpha:
                for _ in range(self.drop[site.name]):
                    if self.model.average_bits > goal and site in self._spare():
                        site.quantizer.set_n(site.quantizer.n - 1)
        while self.rule.keep_pace and self.model.average_bits > goal:
            cheapest = min(self._spare(), key=self._cost)
            cheapest.quantizer.set_n(cheapest.quantizer.n - 1)
        self._measure()
        self._choose_drops()

    def _pace(self) -> float:
        return self.start + (self.target - self.start) * min(1.0, self.event / self.events)

    def _spare(self) -> list[Site]:
        """Return the layers that have bits to spare."""
        return [site for site in self.model.sites if site.quantizer.n > self.floor[site.name]]

    def _cost(self, site: Site) -> float:
        """Expected rise of the loss for one bit less, per bit of use: ½ · mean curvature · ‖ΔW‖² / bits (½ left out).

        Bits beyond the budget are of no use: near its end a large layer's bit is weighed for what is still to be
        saved, so that it neither overshoots the budget for little nor lets small layers bleed for the rest.
        """
        quantizer = site.quantizer
        change = (quantizer.at(site.weight, quantizer.n - 1) - quantizer.at(site.weight, quantizer.n)).square().sum()
        excess = (self.model.average_bits - self.target) * self.model.weights
        return self._curvature(site) * float(change) / max(min(site.numel, excess), 1.0)

    def _curvature(self, site: Site) -> float:
        """Mean curvature of a layer's weights: Tr(H_l) / n_l; 1 where nothing is known of it.

        Away from a minimum, and with few vectors, an estimate can be negative, which would make a layer look free
        to prune: none counts as less than a hundredth of the layers' mean.
        """
        means = {other.name: max(self.trace.get(other.name, 0.0), 0.0) / other.numel for other in self.model.sites}
        mean = sum(means.values()) / len(means)
        return max(means[site.name], 0.01 * mean) if mean > 0 else 1.0

    def _estimate_traces(self, loss: Callable[[], Tensor], generator: torch.Generator) -> None:
        weights = [site.weight for site in self.model.sites]
        with self.model.activations("float"):
            estimates, _ = layer_traces(loss, weights, self.rule.hessian_samples, generator)
        if torch.distributed.is_initialized():
            # Every process saw its own images; all must come to one decision.
            estimates = estimates.to(weights[0].device)
            torch.distributed.all_reduce(estimates)
            estimates /= torch.distributed.get_world_size()
        for site, estimate in zip(self.model.sites, estimates.tolist(), strict=True):
            # Few vectors an event are noisy; the running mean over events is not.
            old = self.trace.get(site.name, estimate)
            self.trace[site.name] = 0.5 * old + 0.5 * estimate

    def _measure(self) -> None:
        for site in self.model.sites:
            quantizer, n = site.quantizer, site.quantizer.n
            drop = min(self.drop[site.name], n - self.floor[site.name])
            self.beta[site.name] = quantizer.nonempty(site.weight, drop) if drop > 0 else 1.0
            lost = (quantizer.at(site.weight, n) - site.weight.detach()).square().sum()
            self.omega[site.name] = self._curvature(site) * float(lost)

    def _choose_drops(self) -> None:
        mean = sum(self.omega.values()) / len(self.omega)
        for site in self.model.sites:
            insensitive = self.rule.hessian_samples > 0 and self.omega[site.name] < mean
            self.drop[site.name] = 2 if insensitive and site.quantizer.n - self.floor[site.name] > 2 else 1

    def _smallest_n(self, site: Site) -> int:
        least = self.rule.minimum_bits
        if least is None or (least == 0 and not site.removable):
            return 1
        return max(least - 1, 0) if self.rule.representation == "sign_magnitude" else least

    def measures(self) -> dict[str, tuple[float | None, float | None]]:
        """Return (β, Ω) of every site as last looked at."""
        return {site.name: (self.beta.get(site.name), self.omega.get(site.name)) for site in self.model.sites}

    def state_dict(self) -> dict[str, Any]:
        """Return what an interrupted run needs beside the weights."""
        keys = ("event", "drop", "beta", "omega", "trace", "start")
        return {key: getattr(self, key) for key in keys}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where state_dict left off."""
        for key, value in state.items():
            setattr(self, key, value)
