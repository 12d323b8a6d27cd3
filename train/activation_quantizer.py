"""The activation quantizer: int8 (or narrower) per tensor, range calibrated on data and then learned."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from msq.errors import TrainingError
from train.fused import round_to_grid, round_to_grid_backward

ActivationRange = Literal["learned", "pact", "calibrated"]


class ActivationQuantizer(nn.Module):
    """Rounds an activation to `bits` with one scale; zero is always a code, so that padding is exact.

    The grid is unsigned where calibration saw nothing negative (after a ReLU), symmetric otherwise, or affine
    with a frozen zero point where the range is known beforehand (`fix_range`). The scale is then

        learned      trained with the step-size gradient of LSQ (arXiv 1902.08153, equation 3; gradient scale
                     1/√(N·Q_max), section 2.2)
        pact         trained as PACT's clip value α = scale · Q_max: the gradient of α is Σ g over what is clipped, and
                     nothing inside (arXiv 1805.06085, equation 3). PACT's decay of α is left to the caller; here
                     scales are not decayed.
        calibrated   left as it is

    rectifies: it stands in a ReLU's place: its grid begins at zero, so that the clamp does what the ReLU would do, in
    one pass over the tensor instead of two, and as many fewer backwards.

    mode: "calibrate" observes and passes through, "quantize" rounds, "float" passes through.
    """

    grid: Tensor
    CLIP = 0.9999
    """Share of the observed activations that calibration keeps inside the range."""

    def __init__(self, bits: int, range: ActivationRange = "learned", rectifies: bool = False) -> None:
        super().__init__()
        self.bits = bits
        self.range = range
        self.rectifies = rectifies
        self.fixed = False
        self.mode: Literal["calibrate", "quantize", "float"] = "quantize"
        self.scale = nn.Parameter(torch.ones(1), requires_grad=range != "calibrated")
        self.register_buffer("grid", torch.zeros(3, dtype=torch.int64))
        self._set_grid(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0)
        self._seen: list[tuple[float, float]] = []

    @property
    def low(self) -> int:
        """Smallest code."""
        return self._low

    @property
    def zero_point(self) -> int:
        """Code of zero."""
        return self._zero_point

    @property
    def high(self) -> int:
        """Largest code."""
        return self._high

    def fix_range(self, low: float, high: float) -> None:
        """Set an affine grid over [low, high], known beforehand; it is neither calibrated nor trained."""
        low, high = min(low, 0.0), max(high, 0.0)
        self.fixed = True
        step = (high - low) / (2**self.bits - 1)
        bottom = -(2 ** (self.bits - 1))
        self.scale.requires_grad_(False).fill_(step)
        self._set_grid(bottom, bottom + 2**self.bits - 1, bottom + round(-low / step))

    def finish_calibration(self) -> None:
        """Set the grid from what was observed: the mean over the batches of each batch's range.

        Raises:
            TrainingError: the activation was always zero, or not finite.
        """
        if not self._seen:
            return
        low = sum(pair[0] for pair in self._seen) / len(self._seen)
        high = sum(pair[1] for pair in self._seen) / len(self._seen)
        if not (math.isfinite(low) and math.isfinite(high)) or max(-low, high) <= 0:
            raise TrainingError(f"an activation ranges over [{low}, {high}] in calibration", hint="check the float run")
        if low >= 0:
            self._set_grid(0, 2**self.bits - 1, 0)
        else:
            self._set_grid(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1, 0)
        with torch.no_grad():
            self.scale.fill_(max(-low, high) / self._high)
        self._seen.clear()

    def forward(self, x: Tensor) -> Tensor:
        """Return x on the grid (mode quantize), or x itself."""
        if self.mode != "quantize":
            x = torch.relu(x) if self.rectifies else x
            if self.mode == "calibrate" and not self.fixed:
                self._observe(x.detach())
            return x
        zero_point = self._zero_point
        rounded: Tensor = _RoundToGrid.apply(  # type: ignore[no-untyped-call]
            x, self.scale, self._low - zero_point, self._high - zero_point, self.range == "pact"
        )
        return rounded

    def _observe(self, x: Tensor) -> None:
        low, high = float(x.amin()), float(x.amax())
        if low >= 0 and high > 0:
            # The tail of a ReLU is long: a quantile is a better end of the range than the largest value.
            sample = x.flatten()[:: max(1, x.numel() // 100_000)].float()
            high = float(torch.quantile(sample, self.CLIP))
        self._seen.append((low, high))

    def _set_grid(self, low: int, high: int, zero_point: int) -> None:
        # Kept as numbers too: reading a tensor in every step would make the host wait for the device.
        self._low, self._high, self._zero_point = low, high, zero_point
        self.grid.copy_(torch.tensor([low, high, zero_point]))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._low, self._high, self._zero_point = self.grid.tolist()


class _RoundToGrid(torch.autograd.Function):
    """clamp(round(x / scale), low, high) · scale, with LSQ's gradient for the scale.

    Inside the range dx̂/ds = round(x/s) − x/s, outside it is the limit; summed, that is (g·x̂ − g_x·x) / s, which
    needs no pass of its own. It is computed in float32 and returned in the type of x, for under autocast the next
    layer takes that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int, pact: bool) -> Tensor:
        rounded = round_to_grid(x, scale, low, high)
        ctx.save_for_backward(x, rounded, scale)
        ctx.limits, ctx.pact = (low, high), pact
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, rounded, scale = ctx.saved_tensors
        low, high = ctx.limits
        through, slope = round_to_grid_backward(gradient, x, rounded, scale, low, high)
        if ctx.pact:
            # α is high · scale, so its gradient, Σ g · sign over the clipped, is that of the scale times 1 / high; the
            # optimizer steps the scale, and a step of α is a step of the scale times high.
            clipped = ((gradient - through) * torch.sign(rounded)).sum(dtype=torch.float32)
            return through, clipped.reshape(1) / max(high, 1), None, None, None
        factor = (x.numel() * max(high, 1)) ** -0.5
        return through, (slope / scale).reshape(1) * factor, None, None, None
