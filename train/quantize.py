"""One call makes a user's torch model quantized: `quantize(model, example)`; its layers become sites."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from msq.errors import TrainingError
from train.activation_quantizer import ActivationQuantizer, ActivationRange
from train.layer_quantizer import LayerQuantizer
from train.placement import insert_activation_quantizers, on_residual_paths
from train.weight_quantizer import WeightQuantizer


@dataclass(frozen=True)
class Site:
    """One quantized layer of a model. removable: the layer may end at width 0, for a residual path goes round it."""

    name: str
    op: Literal["conv2d", "linear"]
    layer: nn.Conv2d | nn.Linear
    removable: bool

    @property
    def quantizer(self) -> LayerQuantizer:
        """What makes the layer's weight of the trained tensors."""
        quantizer = self.layer.parametrizations["weight"][0]  # type: ignore[index]
        assert isinstance(quantizer, LayerQuantizer)
        return quantizer

    @property
    def trained(self) -> tuple[nn.Parameter, ...]:
        """The tensors that are trained in the weight's place: most often one, a float weight of the same shape."""
        parametrization = self.layer.parametrizations["weight"]  # type: ignore[index]
        assert isinstance(parametrization, parametrize.ParametrizationList)
        if hasattr(parametrization, "original"):
            return (parametrization.original,)  # type: ignore[return-value]
        return tuple(getattr(parametrization, f"original{i}") for i in range(parametrization.ntensors))

    @property
    def weight(self) -> nn.Parameter:
        """The float weight that is trained, of a quantizer that trains one."""
        (weight,) = self.trained
        return weight

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight: (out, in / groups, height, width) or (out, in)."""
        layer = self.layer
        if isinstance(layer, nn.Conv2d):
            return (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
        return (layer.out_features, layer.in_features)

    @property
    def depthwise(self) -> bool:
        """Whether every output has an input channel of its own."""
        layer = self.layer
        return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def codes(self) -> tuple[Tensor, Tensor]:
        """Return the stored codes (uint8, the weight's shape) and the scale of a code step (float32, (out,))."""
        with torch.no_grad():
            return self.quantizer.codes(*self.trained)

    def requantize(self, quantizer: LayerQuantizer) -> None:
        """Train the weight as it is now through another quantizer."""
        parametrize.remove_parametrizations(self.layer, "weight", leave_parametrized=True)
        parametrize.register_parametrization(self.layer, "weight", quantizer, unsafe=True)


class QuantizedModel(nn.Module):
    """A user's model with quantized weights and activations. Train it like any other module.

    graph is the traced model, with an ActivationQuantizer after every operation whose result will be an int8
    tensor on the device; sites are the quantized layers in the order in which they run.
    """

    def __init__(self, graph: fx.GraphModule, sites: list[Site]) -> None:
        super().__init__()
        self.graph = graph
        self.sites = sites

    def forward(self, x: Tensor) -> Tensor:
        """Run the model: x float32 (N, C, H, W)."""
        result: Tensor = self.graph(x)
        return result

    def activation_quantizers(self) -> Iterator[ActivationQuantizer]:
        """Yield every activation quantizer."""
        return (module for module in self.graph.modules() if isinstance(module, ActivationQuantizer))

    @property
    def average_bits(self) -> float:
        """Stored bits a weight, signs included, over all sites."""
        return sum(site.quantizer.stored_bits * site.numel for site in self.sites) / self.weights

    @property
    def weights(self) -> int:
        """Number of quantized weights."""
        return sum(site.numel for site in self.sites)

    def bits(self) -> dict[str, int]:
        """Return the stored bits of every site, by name."""
        return {site.name: site.quantizer.stored_bits for site in self.sites}

    @contextmanager
    def unrounded(self) -> Iterator[None]:
        """Run as a function that can be differentiated: on the weights that the layers use, nothing rounded anew.

        For the curvature. The trained weights, one float tensor a layer, are the dequantized ones for the time.
        """
        weights = [site.weight for site in self.sites]
        with torch.no_grad():
            trained = [weight.clone() for weight in weights]
            for site, weight in zip(self.sites, weights, strict=True):
                weight.copy_(site.layer.weight)
        hooks = [site.quantizer.register_forward_hook(_as_given) for site in self.sites]
        try:
            with self.activations("float"):
                yield
        finally:
            for hook in hooks:
                hook.remove()
            with torch.no_grad():
                for weight, was in zip(weights, trained, strict=True):
                    weight.copy_(was)

    @contextmanager
    def activations(self, mode: Literal["calibrate", "float"]) -> Iterator[None]:
        """Run with activation quantizers that observe or pass through; calibration sets their grids at the end."""
        quantizers = list(self.activation_quantizers())
        for quantizer in quantizers:
            quantizer.mode = mode
        try:
            yield
        finally:
            for quantizer in quantizers:
                quantizer.mode = "quantize"
        if mode == "calibrate":
            for quantizer in quantizers:
                quantizer.finish_calibration()


def _as_given(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
    return given[0]


def quantize(
    model: nn.Module,
    make: Callable[[Tensor], LayerQuantizer] | None = None,
    *,
    activation_bits: int = 8,
    activation_range: ActivationRange = "learned",
    input_range: tuple[float, float] | None = None,
) -> QuantizedModel:
    """Return the model with every Conv2d and Linear quantized and every int8 activation marked.

    Args:
        model: a module that torch.fx can trace; its layers are taken over, not copied.
        make: returns a new quantizer for a layer's float weight; default: MSQ's, 8 stored bits.
        activation_bits: 2..8. activation_range: how their scales are trained, see ActivationQuantizer.
        input_range: (lowest, highest) value the input can take, where it is known; else it is calibrated.
    Raises:
        TrainingError: the model cannot be traced, or has nothing to quantize.
    """
    make = make or (lambda weight: WeightQuantizer("sign_magnitude", 7))
    try:
        graph = fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"{type(model).__name__} cannot be traced: {reason}",
            hint="control flow must not depend on tensor values; wrap such code with torch.fx.wrap",
        ) from None
    removable = on_residual_paths(graph)
    sites: list[Site] = []
    for name, layer in graph.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parametrize.register_parametrization(layer, "weight", make(layer.weight.detach()), unsafe=True)
            op: Literal["conv2d", "linear"] = "conv2d" if isinstance(layer, nn.Conv2d) else "linear"
            sites.append(Site(name, op, layer, name in removable))
    if not sites:
        raise TrainingError(f"{type(model).__name__} has no Conv2d or Linear layer to quantize")
    insert_activation_quantizers(graph, lambda: ActivationQuantizer(activation_bits, activation_range), input_range)
    return QuantizedModel(graph, sites)
