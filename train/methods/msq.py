"""MSQ: low bits are emptied by an L1 term, then dropped; the Hessian says which layers may lose two at once.

Source: MSQ (arXiv 2507.22349). The callback works under any LightningModule: it adds the L1 term to the weights'
gradients and takes the task loss of its module from `loss(batch)`.
"""

from typing import Any

import lightning as L
import torch
from pydantic import Field
from torch import nn

from msq.checkpoint import InputSpec
from msq.recipe import Activations, Budget
from train.bit_pruner import BitPruner, PruningRule
from train.quantize import QuantizedModel, quantize
from train.roundclamp import Divisor, Rounding
from train.schedule import Phase
from train.weight_quantizer import WeightQuantizer, most_levels


class Options(PruningRule):
    """Keys of a recipe's `method` section."""

    per_channel: bool = True
    """One scale per output channel; off: one per layer."""
    rounding: Rounding = "roundclamp"
    """The codes; dorefa is the paper's negative control."""
    divisor: Divisor = "2^n"
    """What codes are divided by; 2^n-1 makes weights larger whenever a bit goes."""
    prune_epochs: int = Field(3, ge=1)
    """Epochs in which bits are emptied and dropped, until the budget is met."""
    finetune_epochs: int = Field(2, ge=0)
    """Epochs at the final widths, without the L1 term."""
    learning_rate: float = Field(0.02, gt=0)
    """Peak, held through the pruning and annealed to zero in the fine-tuning."""
    weight_decay: float = Field(1e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    distillation: float = Field(0.0, ge=0, le=1)
    """Share of the loss that is the distance to the float net's softened answers."""


class Msq(L.Callback):
    """Prunes bits of a QuantizedModel while it trains.

    Args:
        model: the quantized part of the LightningModule that is being fitted.
        rule: see PruningRule. budget: what to reach.
        epochs: in which to reach it. seed: of Hutchinson's vectors.
    """

    def __init__(self, model: QuantizedModel, rule: PruningRule, budget: Budget, epochs: int, seed: int) -> None:
        self.pruner = BitPruner(model, rule, budget)
        self._epochs, self._seed = epochs, seed

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fix the pace: the budget is met at the end of the pruning epochs."""
        steps = int(trainer.num_training_batches)
        self.pruner.set_events(self._epochs * steps // self.pruner.rule.interval)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the L1 term."""
        if not self.pruner.done:
            self.pruner.add_penalty_gradient()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Every `interval` steps, look at β and drop bits."""
        if self.pruner.done or trainer.global_step % self.pruner.rule.interval:
            return
        count = self.pruner.rule.hessian_batch
        part = tuple(item[:count] for item in batch)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + trainer.global_step)
        # Batch statistics must not move, and a dropout must not drop, while the curvature is looked at.
        pl_module.eval()
        try:
            self.pruner.prune(lambda: pl_module.loss(part), generator)  # type: ignore[operator]
        finally:
            pl_module.train()

    def state_dict(self) -> dict[str, Any]:
        """Return the pruner's state, for Lightning's checkpoints."""
        return self.pruner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the pruner's state."""
        self.pruner.load_state_dict(state_dict)


def wrap(model: nn.Module, options: Options, activations: Activations, spec: InputSpec) -> QuantizedModel:
    """Return the model with the method's quantizers, 8 stored bits everywhere, not yet calibrated."""
    start = most_levels(options.representation, options.divisor)
    return quantize(
        model,
        lambda weight: WeightQuantizer(
            options.representation, start, options.per_channel, options.rounding, options.divisor
        ),
        activation_bits=activations.bits,
        activation_range=activations.range,
        input_range=spec.pixel_range(),
    )


def phases(model: QuantizedModel, options: Options, budget: Budget, seed: int) -> tuple[Phase, ...]:
    """Return how the wrapped model is trained. Raises BudgetError where the budget cannot be met."""
    msq = Msq(model, options, budget, options.prune_epochs, seed)
    hold = options.prune_epochs / (options.prune_epochs + options.finetune_epochs)
    whole = Phase(
        name="msq",
        epochs=options.prune_epochs + options.finetune_epochs,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        distillation=options.distillation,
        warmup=0.05,
        hold=hold,
        callbacks=(msq,),
        measures=msq.pruner.measures,
        scalars=lambda: msq.pruner.seen,
    )
    return (whole,)
