"""The weight quantizer of one layer: its width, its representation, and how codes become weights."""

import torch
from torch import Tensor

from msq.checkpoint import Representation
from train.fused import fused
from train.layer_quantizer import Grid, LayerQuantizer
from train.roundclamp import Divisor, Rounding, code, lsb_residue, nearest, steps_of

Number = float | Tensor


class WeightQuantizer(LayerQuantizer):
    """Quantizes a weight on the way into its layer; registered as a parametrization of `weight`.

    Two representations of a weight W in [0, 1]. With RoundClamp and the divisor 2^n, dropping empty low bits changes
    no weight; with 2^n − 1 it makes all of them larger:

        sign_magnitude   |w| / max|w|, the sign apart. n magnitude bits are stored in n + 1; n = 0 is an empty layer.
        offset           w / (2 max|w|) + ½. n bits are stored in n.

    The maximum is taken per output channel (or over the tensor) and carries no gradient. The gradient passes
    straight through the rounding. `levels` is n; it is a buffer, so that it is saved with the weights.
    """

    levels: Tensor

    def __init__(
        self,
        representation: Representation,
        levels: int,
        per_channel: bool = True,
        rounding: Rounding = "roundclamp",
        divisor: Divisor = "2^n",
    ) -> None:
        super().__init__()
        self.rounding, self._less = rounding, int(divisor == "2^n-1")
        self.representation = representation
        self.per_channel = per_channel
        self.register_buffer("levels", torch.tensor(levels))
        self._n = levels

    @property
    def _centred(self) -> bool:
        """Whether the levels lie symmetrically about zero, none on it: DoReFa's own, 2·q / (2^n − 1) − 1."""
        return self.representation == "offset" and bool(self._less)

    @property
    def n(self) -> int:
        """Code bits, the sign of sign_magnitude left out: what MSQ calls n."""
        return self._n

    @property
    def most(self) -> int:
        """The most code bits that int8 holds."""
        return most_levels(self.representation, "2^n-1" if self._less else "2^n")

    def set_n(self, n: int) -> None:
        """Set the number of code bits."""
        self._n = n
        self.levels.fill_(n)

    @property
    def stored_bits(self) -> int:
        """Stored bits a weight, sign included."""
        return stored_bits(self.representation, self._n)

    @property
    def paper_bits(self) -> int:
        """Code bits n: the paper leaves the sign out."""
        return self._n

    @property
    def grid(self) -> Grid:
        """How the stored codes are read."""
        if self.stored_bits == 0:
            return Grid(0, 1, 0)
        if self._centred:
            return Grid(self._n, 2, (1 << self._n) - 1)
        return Grid(self.stored_bits, 1, 1 << (self.stored_bits - 1))

    def forward(self, weight: Tensor) -> Tensor:  # type: ignore[override]
        """Return the dequantized weight, same shape, float32; the gradient is that of the identity."""
        with torch.no_grad():
            shift = fused(_shift, weight, self._top(weight), *self._rule(self._n))
        return weight + shift

    def penalty_gradient(self, weight: Tensor, drop: int) -> Tensor:
        """Return the gradient of Σ|B_k| / 2^n for k = drop, as a step of the weight that is uniform in W.

        sign(B_k) is the gradient in normalised weights. As a step in the weight's own units it is multiplied by
        d w / d W, so that one strength moves normalised weights at one rate in every channel, whatever its scale;
        the gradient proper, divided by that factor, would move small channels the fastest.

        Args:
            weight: float32, the layer's float weight. drop: k, 1..n.
        Returns:
            Same shape, float32; zero where the low bits are already empty.
        """
        with torch.no_grad():
            weight = weight.float()
            longer, shorter = (steps_of(n, self.rounding) for n in (self._n, self._n - drop))
            return fused(
                _direction, weight, self._top(weight), *longer, *shorter, float(1 << drop), *self._range()
            )  # fmt: skip

    def penalty(self, weight: Tensor, drop: int) -> Tensor:
        """Return Σ|B_k| / 2^n for k = drop, a scalar: what `penalty_gradient` lowers."""
        with torch.no_grad():
            residue = lsb_residue(self.normalised(weight.float()), self._n, drop, self.rounding)
            return residue.abs().sum() / (1 << self._n)

    def nonempty(self, weight: Tensor, drop: int) -> float:
        """Return β: the share of weights whose last `drop` bits are not empty."""
        with torch.no_grad():
            residue = lsb_residue(self.normalised(weight.float()), self._n, drop, self.rounding)
            return float((residue != 0).float().mean())

    def at(self, weight: Tensor, n: int) -> Tensor:
        """Return the weight dequantized with n code bits instead of the present number, without gradient."""
        with torch.no_grad():
            return _rounded(weight, self._top(weight), *self._rule(n))

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the stored codes (uint8, the weight's shape) and the scale of a code step (float32, (out,))."""
        with torch.no_grad():
            codes = code(self.normalised(weight), self._n, self.rounding)
            if self.representation == "sign_magnitude" and self._n:
                codes += float(1 << self._n)
            scale = (self._top(weight) * self._step(self._n)).flatten().expand(weight.shape[0])
            return codes.to(torch.uint8), scale.float().contiguous()

    def normalised(self, weight: Tensor) -> Tensor:
        """Return W: in [0, 1] of offset weights, in [−1, 1] of sign_magnitude ones, whose sign is a bit of its own."""
        return _normalised(weight, self._top(weight), *self._range())

    def _top(self, weight: Tensor) -> Tensor:
        """Return the largest magnitude of a channel, or of the tensor, in a shape that broadcasts."""
        dimensions = list(range(1 if self.per_channel else 0, weight.dim()))
        # Twenty times as fast as linalg.vector_norm(inf), which was a twentieth of a step of ResNet-50.
        top = torch.maximum(weight.amax(dimensions, keepdim=True), -weight.amin(dimensions, keepdim=True))
        # Of a channel of zeros the quotient stays a number.
        return top.clamp_min(torch.finfo(torch.float32).tiny * 2**16)

    def _range(self) -> tuple[float, float]:
        """Return what w / max|w| is multiplied by, and what is added, to make W."""
        return (1.0, 0.0) if self.representation == "sign_magnitude" else (0.5, 0.5)

    def _step(self, n: int) -> float:
        """Return the weight of a code step over max|w|; at n = 0, where all codes are 0, one."""
        return (1 if self.representation == "sign_magnitude" else 2) / max((1 << n) - self._less, 1)

    def _rule(self, n: int) -> tuple[float, ...]:
        """Return what _rounded takes for n code bits."""
        zero = 0.0 if self.representation == "sign_magnitude" else ((1 << n) - int(self._centred)) / 2
        return (*self._range(), *steps_of(n, self.rounding), zero, self._step(n))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._n = int(self.levels)


def most_levels(representation: Representation, divisor: Divisor = "2^n") -> int:
    """Return the most code bits that int8 holds: 8 stored bits, or 7 where no level is zero (2u − 255 overflows)."""
    return 8 if representation == "offset" and divisor == "2^n" else 7


def stored_bits(representation: Representation, n: int) -> int:
    """Return the stored bits of a weight with n code bits: the sign of sign_magnitude costs one more."""
    return n + 1 if representation == "sign_magnitude" and n > 0 else n


def _normalised(weight: Tensor, top: Tensor, slope: Number, offset: Number) -> Tensor:
    return weight / top * slope + offset


def _rounded(
    weight: Tensor, top: Tensor, slope: Number, offset: Number, steps: Number, most: Number, zero: Number, step: Number
) -> Tensor:
    return (nearest(_normalised(weight, top, slope, offset), steps, most) - zero) * (top * step)


def _shift(weight: Tensor, top: Tensor, *rule: Number) -> Tensor:
    return _rounded(weight, top, *rule) - weight


def _direction(
    weight: Tensor, top: Tensor, steps: Number, most: Number, fewer: Number, least: Number, factor: Number,
    slope: Number, offset: Number,
) -> Tensor:  # fmt: skip
    normalised = _normalised(weight, top, slope, offset)
    residue = nearest(normalised, steps, most) - factor * nearest(normalised, fewer, least)
    return torch.sign(residue) * (top / slope)
