"""Small quantized nets, and checkpoint folders made of them as training makes them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from msq.checkpoint import (
    CHECKPOINT_FILE,
    IMAGES_FILE,
    LABELS_FILE,
    PROGRAM_FILE,
    TENSORS_FILE,
    Accuracy,
    Checkpoint,
    DataId,
    EpochRecord,
    InputSpec,
    Site,
)
from msq.checksums import sha256_of
from msq.preprocessing import normalise

SIDE, CHANNELS, CLASSES = 12, 3, 5
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CACHEMASK = "aten::fake_quantize_per_tensor_affine_cachemask"

if not torch._C._dispatch_has_kernel_for_dispatch_key(CACHEMASK, "Meta"):
    # torch.export traces shapes, and torch has no shape rule for this operator.
    @torch.library.register_fake(CACHEMASK)
    def _(x: Tensor, scale: float, zero_point: int, low: int, high: int) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


class FakeQuantize(nn.Module):
    """Marks an int8 tensor. Its scale is set by the first batch that it sees."""

    def __init__(self, zero_point: int = 0, low: int = 0, high: int = 255) -> None:
        super().__init__()
        self.zero_point, self.low, self.high = zero_point, low, high
        self.scale = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.scale:
            reach = max(self.high - self.zero_point, 1)
            self.scale = float(x.abs().max()) / reach
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, self.low, self.high)


def signed() -> FakeQuantize:
    return FakeQuantize(0, -128, 127)


class Residual(nn.Module):
    """A basic block whose shortcut is a strided 1 × 1 convolution, or nothing.

    round_operands makes its addition round as the integer model's does; it is no part of what is exported.
    """

    round_operands = False

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = FakeQuantize()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = signed()
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs), signed())
        self.act3 = FakeQuantize()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(torch.relu(self.bn1(self.conv1(x))))
        y = self.act2(self.bn2(self.conv2(y)))
        shortcut = self.shortcut(x)
        if self.round_operands:
            step = self.act3.scale
            y, shortcut = (y / step).round() * step, (shortcut / step).round() * step
        y += shortcut
        return self.act3(nn.functional.relu(y, inplace=True))


class ResidualNet(nn.Module):
    """A stem, an identity block, a downsampling block, the global average and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.image = FakeQuantize(114, 0, 255)
        self.stem = nn.Sequential(nn.Conv2d(CHANNELS, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), FakeQuantize())
        self.block1 = Residual(8, 8, 1)
        self.block2 = Residual(8, 16, 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), FakeQuantize())
        self.dropout = nn.Dropout()
        self.classifier = nn.Linear(16, CLASSES)
        self.result = signed()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.block2(self.block1(self.stem(self.image(x)))))
        return self.result(self.classifier(self.dropout(x.view(x.shape[0], -1))))


class FlatteningNet(nn.Module):
    """Depthwise, grouped and dilated convolutions, ReLU6, a maximum pool, and a linear layer over a whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.image = signed()
        self.conv = nn.Sequential(nn.Conv2d(CHANNELS, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU6(), FakeQuantize())
        self.depthwise = nn.Sequential(nn.Conv2d(6, 6, 3, padding="same", groups=6), nn.ReLU(), FakeQuantize(0, 0, 15))
        self.pool = nn.MaxPool2d(2)
        self.grouped = nn.Sequential(nn.Conv2d(6, 4, 2, dilation=2, groups=2), signed())
        self.features = nn.Sequential(nn.Linear(4, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), FakeQuantize())
        self.classifier = nn.Sequential(nn.Linear(7, CLASSES), signed())

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.depthwise(self.conv(self.image(x))))
        return self.classifier(self.features(self.grouped(x).flatten(1)))


class MapNet(nn.Module):
    """A linear layer over a flattened map larger than 1 × 1."""

    def __init__(self) -> None:
        super().__init__()
        self.image = signed()
        self.conv = nn.Sequential(nn.Conv2d(CHANNELS, 4, 3, 4, 1), nn.ReLU(), FakeQuantize())
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES), signed())

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(self.image(x)))


class TokenNet(nn.Module):
    """Patches as tokens, a class token, positions, and attention in the spellings that are usual beside DeiT's."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.patches, self.joined, self.placed = (signed() for _ in range(4))
        self.proj = nn.Conv2d(CHANNELS, 12, 3, 3)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(17, 12) / 2)
        self.norm, self.normal = nn.LayerNorm(12), signed()
        self.q, self.k, self.v = (nn.Sequential(nn.Linear(12, 12), signed()) for _ in range(3))
        self.products, self.shares, self.mixed = signed(), FakeQuantize(), signed()
        self.gain, self.scaled, self.halved = nn.Parameter(torch.rand(12)), signed(), signed()
        self.act, self.active = nn.GELU(), signed()
        self.classifier = nn.Sequential(nn.Linear(12, CLASSES), signed())

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(self.proj(self.image(x))).permute(0, 2, 3, 1).flatten(1, 2)
        joined = self.joined(torch.cat((self.token.expand(x.shape[0], 1, 12), patches), dim=-2))
        normal = self.normal(self.norm(self.placed(joined + self.positions)))
        q, k, v = (part(normal).reshape(-1, 17, 2, 6).transpose(1, 2) for part in (self.q, self.k, self.v))
        shares = self.shares(nn.functional.softmax(self.products((q @ k.mT) / 6**0.5), 3))
        mixed = self.scaled(self.mixed(shares @ v).transpose(1, 2).flatten(2) * self.gain)
        return self.classifier(self.active(self.act(self.halved(mixed * 0.5))))[:, 0]


def grid(bits: int) -> tuple[int, int]:
    """Return a and z of a width: two's complement at 8 bits, else the symmetric grid without zero."""
    return (1, 128) if bits == 8 else (2, 2**bits - 1)


def evaluation_images(count: int = 96) -> np.ndarray:
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (count, 3, 3, CHANNELS))
    return coarse.repeat(SIDE // 3, 1).repeat(SIDE // 3, 2).astype(np.uint8)


def randomise(net: nn.Module, seed: int = 0) -> None:
    """Give batch norms statistics as after training, with some negative gains and one that is almost zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.5 + 0.3)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.2)
            module.weight.data[0] = 1e-9


def quantize_weights(net: nn.Module, widths: Sequence[int], seed: int = 0) -> tuple[list[Site], dict[str, np.ndarray]]:
    """Round every layer's weights to the next width of `widths`; return the sites, and their codes and scales."""
    sites, arrays = [], {}
    layers = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for index, (name, layer) in enumerate(layers):
        bits = widths[index % len(widths)]
        a, z = grid(bits) if bits else (1, 0)
        weight = layer.weight.detach().numpy()
        reach = np.abs(weight).reshape(len(weight), -1).max(axis=1).astype(np.float32)
        scale = (reach / max(2 ** (bits - 1) * a - 1, 1)).astype(np.float32) if bits else np.ones_like(reach)
        column = scale.reshape(-1, *[1] * (weight.ndim - 1))
        codes = np.clip(np.rint((weight / column + z) / a), 0, 2**bits - 1).astype(np.uint8)
        layer.weight.data = torch.from_numpy(((a * codes.astype(np.float32) - z) * column).astype(np.float32))
        op = "conv2d" if isinstance(layer, nn.Conv2d) else "linear"
        shape = tuple(weight.shape)
        sites.append(
            Site(
                name=name,
                op=op,
                parameter=f"{name}.weight",
                shape=shape,
                bits=bits,
                paper_bits=max(bits - 1, 0),
                a=a,
                z=z,
                granularity="per_channel",
                representation="offset",
            )
        )
        arrays |= {f"{name}.codes": codes, f"{name}.scale": scale}
    return sites, arrays


def write_checkpoint(folder: Path, net: nn.Module, widths: Sequence[int] = (8, 4, 3, 2, 1), golden: int = 4) -> Path:
    """Quantize a net's weights, calibrate its activations and write the checkpoint folder."""
    net.eval()
    sites, arrays = quantize_weights(net, widths)
    images = evaluation_images()
    example = torch.from_numpy(normalise(images, MEAN, STD)).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        net(example)
    program = torch.export.export(net, (example[:2],), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    (folder / IMAGES_FILE).parent.mkdir(parents=True)
    torch.export.save(program, folder / PROGRAM_FILE)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / TENSORS_FILE)
    np.save(folder / IMAGES_FILE, images)
    np.save(folder / LABELS_FILE, np.zeros(len(images), np.int64))
    names = (PROGRAM_FILE, TENSORS_FILE, IMAGES_FILE, LABELS_FILE)
    weights = sum(int(np.prod(site.shape)) for site in sites)
    Checkpoint(
        recipe="small",
        recipe_sha256="0" * 64,
        model=type(net).__name__.lower(),
        method="msq",
        input=InputSpec(height=SIDE, width=SIDE, channels=CHANNELS, mean=MEAN, std=STD),
        labels=tuple("abcde"),
        sites=tuple(sites),
        activation_bits=8,
        average_bits=sum(site.bits * int(np.prod(site.shape)) for site in sites) / weights,
        paper_compression=None,
        accuracy=(Accuracy(what="float", correct=80, n=96), Accuracy(what="trained", correct=79, n=96)),
        history=(EpochRecord(phase="float", epoch=0, loss=1.0, average_bits=32),),
        data=DataId(name="blocks", sha256="0" * 64, train=0, test=len(images)),
        golden=golden,
        seed=0,
        phases=(),
        versions={"torch": str(torch.__version__)},
        files={name: sha256_of(folder / name) for name in names},
    ).write(folder / CHECKPOINT_FILE)
    return folder


@pytest.fixture
def nets() -> SimpleNamespace:
    """The nets of this file, and the marker of int8 tensors."""
    return SimpleNamespace(
        Residual=ResidualNet,
        Flattening=FlatteningNet,
        Map=MapNet,
        Tokens=TokenNet,
        FakeQuantize=FakeQuantize,
        signed=signed,
        MEAN=MEAN,
        STD=STD,
    )


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Return a function from a net to its checkpoint folder."""

    def make(net: nn.Module, widths: Sequence[int] = (8, 4, 3, 2, 1)) -> Path:
        randomise(net)
        return write_checkpoint(tmp_path / "checkpoint", net, widths)

    return make


@pytest.fixture(scope="session")
def residual_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint folder of a residual net, not to be altered."""
    torch.manual_seed(0)
    net = ResidualNet()
    randomise(net)
    return write_checkpoint(tmp_path_factory.mktemp("residual") / "checkpoint", net)
