"""A phase of training: for how long, and how fast."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lightning import Callback


@dataclass(frozen=True)
class Phase:
    """One call of the trainer. warmup and hold are shares of its steps.

    The learning rate rises in a straight line over the first `warmup`, stays at its peak until `hold`, and falls in
    a straight line to zero.
    """

    name: str
    epochs: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float = 0.0
    distillation: float = 0.0
    """Share of the loss that compares with the float net's answers; the rest compares with the labels."""
    warmup: float = 0.3
    hold: float = 0.3
    begin: Callable[[], None] = lambda: None
    """Called before the phase, after the phase before it has ended or was loaded: may change what is trained."""
    callbacks: tuple[Callback, ...] = ()
    measures: Callable[[], Mapping[str, tuple[float | None, float | None]]] = dict
    """(β, Ω) of every site at the end, where the method knows them."""
    scalars: Callable[[], Mapping[str, float]] = dict
    """What the run's log draws, by name. Asked after every step and drawn when it changed, so it computes nothing."""

    def factor(self, step: int, steps: int) -> float:
        """Return the learning rate at `step` of `steps`, as a share of its peak."""
        progress = (step + 1) / steps
        if progress < self.warmup:
            return progress / self.warmup
        if progress <= self.hold or self.hold == 1.0:
            return 1.0
        return max(0.0, (1.0 - progress) / (1.0 - max(self.hold, self.warmup)))
