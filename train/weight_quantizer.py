"""The weight quantizer of one layer: its width, its representation, and how codes become weights."""

import torch
from torch import Tensor

from msq.checkpoint import Representation
from train.layer_quantizer import Grid, LayerQuantizer
from train.roundclamp import Divisor, Rounding, code, lsb_residue


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
        self.enabled = True
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
        if not self.enabled:
            return weight
        with torch.no_grad():
            normalised, sign, top = self._normalise(weight)
            codes = code(normalised, self._n, self.rounding)
            shift = self._dequantize(codes, sign, top) - weight
        # As a sum with a constant the straight-through estimator can be differentiated twice, as the Hessian needs.
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
            normalised, sign, top = self._normalise(weight.float())
            direction = torch.sign(lsb_residue(normalised, self._n, drop, self.rounding))
            if self.representation == "sign_magnitude":
                return direction * sign * top
            return direction * (2 * top)

    def nonempty(self, weight: Tensor, drop: int) -> float:
        """Return β: the share of weights whose last `drop` bits are not empty."""
        normalised, _, _ = self._normalise(weight.float())
        return float((lsb_residue(normalised, self._n, drop, self.rounding) != 0).float().mean())

    def at(self, weight: Tensor, n: int) -> Tensor:
        """Return the weight dequantized with n code bits instead of the present number, without gradient."""
        with torch.no_grad():
            normalised, sign, top = self._normalise(weight)
            return self._dequantize(code(normalised, n, self.rounding), sign, top, n)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the stored codes (uint8, the weight's shape) and the scale of a code step (float32, (out,))."""
        with torch.no_grad():
            normalised, sign, top = self._normalise(weight)
            codes = code(normalised, self._n, self.rounding)
            channels = top.flatten().expand(weight.shape[0]) if top.numel() == 1 else top.flatten()
            if self.representation == "offset":
                step = channels if self._centred else channels * 2
                return codes.to(torch.uint8), (step / self._divisor(self._n)).float()
            stored = codes * sign + float(1 << self._n) if self._n else torch.zeros_like(codes)
            return stored.to(torch.uint8), (channels / self._divisor(self._n)).float()

    def _normalise(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (weights in [0, 1], their signs, the maximum that they were divided by)."""
        with torch.no_grad():
            magnitude = weight.abs()
            if self.per_channel:
                top = magnitude.flatten(1).amax(1).reshape(-1, *[1] * (weight.dim() - 1))
            else:
                top = magnitude.amax().reshape([1] * weight.dim())
            top = top.clamp_min(torch.finfo(torch.float32).tiny * 2**16)
            if self.representation == "sign_magnitude":
                return magnitude / top, torch.sign(weight), top
            return weight / (2 * top) + 0.5, torch.ones_like(weight), top

    def _divisor(self, n: int) -> float:
        """Return what codes are divided by; at n = 0, where all are 0, one."""
        return float(max((1 << n) - self._less, 1))

    def _dequantize(self, codes: Tensor, sign: Tensor, top: Tensor, n: int | None = None) -> Tensor:
        n = self._n if n is None else n
        if self.representation == "sign_magnitude":
            return codes * sign * (top / self._divisor(n))
        if self._centred:
            return (2 * codes - float((1 << n) - 1)) * (top / self._divisor(n))
        return (codes - float(1 << n) / 2) * (2 * top / self._divisor(n))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._n = int(self.levels)


def most_levels(representation: Representation, divisor: Divisor = "2^n") -> int:
    """Return the most code bits that int8 holds: 8 stored bits, or 7 where no level is zero (2u − 255 overflows)."""
    return 8 if representation == "offset" and divisor == "2^n" else 7


def stored_bits(representation: Representation, n: int) -> int:
    """Return the stored bits of a weight with n code bits: the sign of sign_magnitude costs one more."""
    return n + 1 if representation == "sign_magnitude" and n > 0 else n
