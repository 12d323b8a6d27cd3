"""The rule of MSQ: which layers empty and drop their low bits, how many at once, and when.

Source: MSQ (arXiv 2507.22349). Ω is HAWQ-V2's average trace times perturbation (arXiv 1911.03852).
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from msq.artefact import Strict
from msq.checkpoint import Representation
from msq.errors import BudgetError
from msq.recipe import Budget
from train.hessian import layer_traces
from train.quantize import QuantizedModel, Site
from train.target import Target
from train.weight_quantizer import WeightQuantizer, stored_bits

LATEST = 0.25
"""Share of a look's own estimate in the running mean of a trace, once there are so many looks."""


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
    perturbation: Literal["rounding", "drop"] = "rounding"
    """What Ω perturbs a layer by: rounding, ‖W_n − W‖², or drop, ‖W_(n−p) − W_n‖²."""
    hessian_samples: int = Field(1, ge=0)
    """Random vectors a look; a trace is a running mean over the looks. 0 leaves the Hessian out: every layer loses one
    bit at a time."""
    hessian_batch: int = Field(64, ge=1)
    """Images of a trace estimate."""


class BitPruner:
    """The state of MSQ over a model: who may lose how many bits, and the rule by which they go.

    Args:
        model: the quantized model; widths are set in place.
        rule: the method's options. budget: what to reach.
    Raises:
        BudgetError: the budget is below what the layers' smallest widths take.
    """

    def __init__(self, model: QuantizedModel, rule: PruningRule, budget: Budget) -> None:
        self.model, self.rule, self.target, self.events = model, rule, Target(budget, model), 1
        self.floor = {site.name: self._smallest_n(site) for site in model.sites}
        least = sum(self._size(site, self.floor[site.name]) for site in model.sites)
        if self.target.limit < least:
            raise BudgetError(
                f"a budget of {self.target.say(self.target.limit)} is below {self.target.say(least)}, "
                f"the least that {rule.representation} weights take at 1 bit a layer",
                hint="raise the budget"
                + (", or use representation: offset" if rule.representation == "sign_magnitude" else ""),
            )
        self.start = self.target.size()
        self.event = 0
        self.drop = {site.name: 1 for site in model.sites}
        """p: how many low bits a layer is emptying."""
        self.beta: dict[str, float] = {}
        self.omega: dict[str, float] = {}
        self.trace: dict[str, float] = {}
        self.seen: dict[str, float] = {}
        """What the last look left to draw: the L1 term, average bits, and β, Ω and stored bits of every layer."""
        self._harms: dict[tuple[str, int, int], float] = {}

    def set_events(self, events: int) -> None:
        """Say after how many looks the budget must be met; the pace is a straight line to there."""
        self.events = max(events, 1)

    @property
    def done(self) -> bool:
        """Whether the budget is met: the widths are final."""
        return self.target.size() <= self.target.limit

    def add_penalty_gradient(self) -> None:
        """Add the gradient of λ Σ|B_p| to the weights' gradients.

        Added to the gradient, the term needs neither a graph nor a change to the user's loss.
        """
        for site in self.model.sites:
            quantizer, weight = _quantizer(site), site.weight
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
        self._harms.clear()
        self._look()
        # Bits that go faster than the pace take away what the weights were to adapt to one by one.
        goal = self._pace() if self.rule.keep_pace else self.target.limit
        for site in sorted(self._spare(), key=self._cost):
            if self.beta[site.name] < self.rule.alpha:
                for _ in range(self.drop[site.name]):
                    if self.target.size() > goal and site in self._spare():
                        _step(site, -1)
        while self.rule.keep_pace and self.target.size() > goal:
            _step(min(self._spare(), key=self._cost), -1)
        if self.done:
            self._give_back()
        self._look()
        self._weigh()
        self.seen = {"l1": self._penalty(), "average_bits": self.model.average_bits}
        for name, bits in self.model.bits().items():
            self.seen |= {f"beta/{name}": self.beta[name], f"omega/{name}": self.omega[name], f"bits/{name}": bits}

    def _penalty(self) -> float:
        """Return λ Σ|B_p|, the L1 term of the steps to come: none once the widths are final."""
        spare = [] if self.done else self._spare()
        drops = [min(self.drop[site.name], _quantizer(site).n - self.floor[site.name]) for site in spare]
        terms = [_quantizer(site).penalty(site.weight, drop) for site, drop in zip(spare, drops, strict=True)]
        return self.rule.strength * float(torch.stack(terms).sum()) if terms else 0.0

    def _pace(self) -> float:
        return self.start + (self.target.limit - self.start) * min(1.0, self.event / self.events)

    def _size(self, site: Site, n: int) -> float:
        return self.target.size_of(site, stored_bits(self.rule.representation, n))

    def _spare(self) -> list[Site]:
        """Return the layers that have bits to spare."""
        return [site for site in self.model.sites if _quantizer(site).n > self.floor[site.name]]

    def _cost(self, site: Site) -> float:
        """Expected rise of the loss for one bit less, per unit of use: ½ · mean curvature · ‖ΔW‖² / saved (½ left out).

        What is saved beyond the budget is of no use: near its end a large layer's bit is weighed for what is still to
        be saved, so that it neither overshoots the budget for little nor lets small layers bleed for the rest.
        """
        n = _quantizer(site).n
        saved = self._size(site, n) - self._size(site, n - 1)
        return self._harm(site, n, n - 1) / max(min(saved, self.target.size() - self.target.limit), 1e-9)

    def _give_back(self) -> None:
        """Spend what the last, large drop saved too much: one bit each where it helps most and still fits."""
        while True:
            spare = self.target.limit - self.target.size()
            fitting = [
                site
                for site in self.model.sites
                if 0 < (n := _quantizer(site).n) < _quantizer(site).most
                and self._size(site, n + 1) - self._size(site, n) <= spare
            ]
            if not fitting:
                return
            _step(max(fitting, key=lambda site: self._harm(site, _quantizer(site).n + 1, _quantizer(site).n)), +1)

    def _harm(self, site: Site, n: int, fewer: int) -> float:
        """Return mean curvature · ‖ΔW‖² of going from n code bits to fewer; within one look it does not change."""
        key = (site.name, n, fewer)
        if key not in self._harms:
            quantizer = _quantizer(site)
            change = (quantizer.at(site.weight, fewer) - quantizer.at(site.weight, n)).square().sum()
            self._harms[key] = self._curvature(site) * float(change)
        return self._harms[key]

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
        with self.model.unrounded():
            estimates, _ = layer_traces(loss, weights, self.rule.hessian_samples, generator)
        if torch.distributed.is_initialized():
            # Every process saw its own images; all must come to one decision.
            estimates = estimates.to(weights[0].device)
            torch.distributed.all_reduce(estimates)
            estimates /= torch.distributed.get_world_size()
        for site, estimate in zip(self.model.sites, estimates.tolist(), strict=True):
            # One vector is noisy; the mean over the looks, of which the last few weigh most, much less so.
            share = max(1 / self.event, LATEST)
            self.trace[site.name] = (1 - share) * self.trace.get(site.name, 0.0) + share * estimate

    def _look(self) -> None:
        """Measure β of every layer."""
        for site in self.model.sites:
            quantizer = _quantizer(site)
            drop = min(self.drop[site.name], quantizer.n - self.floor[site.name])
            self.beta[site.name] = quantizer.nonempty(site.weight, drop) if drop > 0 else 1.0

    def _weigh(self) -> None:
        """Renew Ω, and p from it: the less sensitive layers empty two bits at once."""
        for site in self.model.sites:
            quantizer = _quantizer(site)
            n = quantizer.n
            if self.rule.perturbation == "drop":
                lost = max(n - self.drop[site.name], 0)
                change = quantizer.at(site.weight, lost) - quantizer.at(site.weight, n)
            else:
                change = quantizer.at(site.weight, n) - site.weight.detach()
            self.omega[site.name] = self._curvature(site) * float(change.square().sum())
        mean = sum(self.omega.values()) / len(self.omega)
        for site in self.model.sites:
            insensitive = self.rule.hessian_samples > 0 and self.omega[site.name] < mean
            self.drop[site.name] = 2 if insensitive and _quantizer(site).n - self.floor[site.name] > 2 else 1

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


def _quantizer(site: Site) -> WeightQuantizer:
    quantizer = site.quantizer
    assert isinstance(quantizer, WeightQuantizer)
    return quantizer


def _step(site: Site, bits: int) -> None:
    _quantizer(site).set_n(_quantizer(site).n + bits)
