"""The layers that kernels are measured on."""

from dataclasses import dataclass

SCALE = 0.05
"""Of every layer's activations."""


@dataclass(frozen=True)
class Layer:
    """A layer of as many channels out as in, so that it can follow itself. size: of a square map; 0: a linear layer."""

    channels: int
    size: int = 0
    kernel: int = 3
    depthwise: bool = False
    repeated: int = 1

    @property
    def name(self) -> str:
        """Kind, channels and map."""
        if not self.size:
            return f"linear {self.channels}²"
        kind = "depthwise" if self.depthwise else "conv"
        return f"{kind} {self.kernel}×{self.kernel} {self.channels} @ {self.size}²"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input, without the batch: (height, width, channels) or (features,)."""
        return (self.size, self.size, self.channels) if self.size else (self.channels,)

    @property
    def weights(self) -> tuple[int, ...]:
        """(out, height, width, in / groups) or (out, in)."""
        inputs = 1 if self.depthwise else self.channels
        return (self.channels, self.kernel, self.kernel, inputs) if self.size else (self.channels, inputs)


CONVOLUTIONS = [
    Layer(16, 32, repeated=2), Layer(32, 16, repeated=2), Layer(64, 8, repeated=2), Layer(64, 16, repeated=2),
    Layer(64, 32), Layer(128, 16), Layer(256, 8), Layer(256, 16), Layer(512, 8), Layer(256, 14, 1, repeated=2),
]  # fmt: skip
DEPTHWISE = [
    Layer(32, 112, depthwise=True), Layer(96, 56, depthwise=True), Layer(144, 56, depthwise=True),
    Layer(384, 14, depthwise=True, repeated=2), Layer(960, 7, depthwise=True, repeated=2),
]  # fmt: skip
LINEAR = [Layer(2048), Layer(4096)]
LARGE = [layer for layer in CONVOLUTIONS if layer.kernel == 3 and layer.channels * layer.size >= 2048]
