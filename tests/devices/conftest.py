"""A small real bundle, built by hand: a residual net with random weights, so that these tests need no training."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import adbutils
import numpy as np
import pytest
from cable import Cable
from sshd import Sshd, board, path_with_python

import runtimes
from devices import transport as transports
from devices.machine import Machine, home
from devices.profile import Profile, profiles
from devices.transport import Transport
from devices.transports.ssh import Ssh
from devices.transports.vm import Vm
from export.lowerings import lowering
from msq.bundle import GOLDEN_FILE, MANIFEST_FILE, Layer, Manifest, Parity, Sizes
from msq.checkpoint import Accuracy, DataId, InputSpec
from msq.checksums import sha256_of
from msq.integer_model import IntegerModel
from msq.nodes import Add, AveragePool, Conv2d, Dequantize, Flatten, Linear, Node, Quantize, Tensor, Weight
from msq.preprocessing import normalise

SPEC = InputSpec(height=9, width=9, channels=2, mean=(0.3, 0.4), std=(0.3, 0.35))
CLASSES = 5


class Builder:
    """Nodes and tensors of a net, added one after another."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []

    def tensor(self, name: str, shape: tuple[int, ...], scale: float, zero_point: int, dtype: str = "int8") -> str:
        self.tensors[name] = Tensor(name, shape, dtype, scale, zero_point)  # type: ignore[arg-type]
        return name

    def weight(self, shape: tuple[int, ...], bits: int) -> Weight:
        codes = self.random.integers(0, 1 << bits, shape, dtype=np.uint8)
        scale = self.random.uniform(5, 8, shape[0]).astype(np.float32) / np.sqrt(np.prod(shape[1:])) / (1 << bits)
        return Weight.from_codes(codes, bits, 1, 1 << (bits - 1), scale.astype(np.float32))

    def conv(self, source: str, name: str, outputs: int, kernel: int, stride: int, bits: int) -> str:
        height, _width, inputs = self.tensors[source].shape
        side = -(-height // stride)
        target = self.tensor(name, (side, side, outputs), 0.017, -128)
        weight = self.weight((outputs, kernel, kernel, inputs), bits)
        bias = self.random.integers(-200, 200, outputs, dtype=np.int32)
        pad = kernel // 2
        place = (f"{name}.node", (source,), target, name)
        self.nodes.append(Conv2d(*place, weight, bias, (stride, stride), (pad, pad, pad, pad), clamp=(-128, 127)))
        return target


def small_model(seed: int = 0) -> IntegerModel:
    """conv 3×3 → conv 3×3 /2 + shortcut conv 1×1 /2 → add → average pool → flatten → linear."""
    net = Builder(seed)
    net.tensor("images", (9, 9, 2), 1.0, 0, "float32")
    net.nodes.append(Quantize("q", ("images",), net.tensor("codes", (9, 9, 2), 0.0157, -9), ""))
    first = net.conv("codes", "first", 16, 3, 1, 8)
    second = net.conv(first, "second", 20, 3, 2, 3)
    shortcut = net.conv(first, "shortcut", 20, 1, 2, 2)
    net.nodes.append(Add("sum", (second, shortcut), net.tensor("summed", (5, 5, 20), 0.021, -128), ""))
    net.nodes.append(AveragePool("pool", ("summed",), net.tensor("pooled", (1, 1, 20), 0.011, -128), ""))
    net.nodes.append(Flatten("flat", ("pooled",), net.tensor("features", (20,), 0.011, -128), ""))
    net.tensor("scores", (CLASSES,), 0.009, 3)
    head = net.weight((CLASSES, 20), 4)
    # Centred, so that no class always wins.
    bias = -head.integers().sum(axis=1, dtype=np.int32) * 33
    net.nodes.append(Linear("head", ("features",), "scores", "head", head, bias))
    net.nodes.append(Dequantize("out", ("scores",), net.tensor("logits", (CLASSES,), 1.0, 0, "float32"), ""))
    return IntegerModel(net.tensors, tuple(net.nodes), "images", "logits")


def write_bundle(folder: Path, runtime: str, model: IntegerModel, images: np.ndarray) -> Path:
    """Write a whole bundle of `model` for a runtime; `images` (uint8) become its golden input."""
    folder.mkdir(parents=True)
    adapter = runtimes.adapter(runtime)
    lower = lowering(adapter.LOWERING)
    model = model.save(folder)
    names = lower.lower(model, folder)
    x = normalise(images, SPEC.mean, SPEC.std)
    oracle = runtimes.adapter("reference").load(folder, 1).tensors(x)
    host = adapter.load(folder, 1).tensors(x)
    golden = {"input": x, **{f"oracle/{name}": value for name, value in oracle.items()}}
    golden |= {f"host/{name}": host[name] for name in oracle if host[name].tobytes() != oracle[name].tobytes()}
    np.savez(folder / GOLDEN_FILE, **golden)
    files = ["model.json", "weights.bin", GOLDEN_FILE, *names]
    resident, note = adapter.resident(model)
    size = sum((folder / name).stat().st_size for name in lower.DEPLOYED)
    layers = [
        Layer(
            name=node.module,
            op="conv2d" if isinstance(node, Conv2d) else "linear",
            shape=node.weight.shape,
            weights=node.weight.outputs * node.weight.inputs,
            bits=node.weight.bits,
            paper_bits=node.weight.bits,
            packed_bytes=node.weight.packed.nbytes,
        )
        for node in model.weighted()
    ]
    Manifest(
        name="small",
        lowering=adapter.LOWERING,
        model="small",
        method="none",
        input=SPEC,
        labels=tuple(f"class {number}" for number in range(CLASSES)),
        layers=tuple(layers),
        average_bits=sum(layer.bits * layer.weights for layer in layers) / sum(layer.weights for layer in layers),
        paper_compression=None,
        sizes=Sizes(
            weight_bytes=sum(layer.bits * layer.weights for layer in layers) // 8 + 1,
            parameter_bytes=8 * sum(layer.shape[0] for layer in layers),
            model_bytes=size,
            limit_bytes=size,
            float32_bytes=4 * sum(layer.weights for layer in layers),
            int8_bytes=sum(layer.weights for layer in layers),
            resident_weight_bytes=resident,
            resident_note=note,
        ),
        parity=Parity(tensors=len(oracle), values=sum(value.size for value in oracle.values()), max_lsb=0),
        accuracy=(Accuracy(what="trained", correct=180, n=300),),
        history=(),
        data=DataId(name="noise", sha256="0" * 64, train=0, test=300),
        seed=0,
        training_seconds=0,
        checkpoint_sha256="0" * 64,
        versions={},
        files={name: sha256_of(folder / name) for name in files},
    ).write(folder / MANIFEST_FILE)
    return folder


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """300 images of coloured noise, uint8 (n, 9, 9, 2): unlike enough to fall into several classes."""
    random = np.random.default_rng(7)
    return (random.uniform(0, 255, (300, 9, 9, 2)) * random.uniform(0, 1, (300, 1, 1, 2))).astype(np.uint8)


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory, pictures: np.ndarray) -> Path:
    """An evaluation folder: the pictures with random labels."""
    folder = tmp_path_factory.mktemp("evaluation")
    np.save(folder / "images.npy", pictures)
    np.save(folder / "labels.npy", np.random.default_rng(8).integers(0, CLASSES, len(pictures)))
    return folder


@pytest.fixture(
    params=["litert", "litert-stock", "native", "onnxruntime", "onnxruntime-stock", "reference"], scope="session"
)
def runtime(request: pytest.FixtureRequest) -> str:
    """Each runtime in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, runtime: str, pictures: np.ndarray) -> Path:
    """The small bundle for `runtime`."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small", runtime, small_model(), pictures[:4])


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, pictures: np.ndarray) -> Path:
    """The small bundle for the runtime "reference", for what does not depend on the runtime."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "plain", "reference", small_model(), pictures[:4])


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory, pictures: np.ndarray) -> Path:
    """The small bundle for the runtime "native", which needs nothing on a device."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "native", "native", small_model(), pictures[:4])


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An SSH server of this machine, whose python3 is the one of these tests."""
    folder = tmp_path_factory.mktemp("sshd")
    with closing(Sshd(folder / "board", path_with_python(folder / "bin", Path(sys.executable)))) as server:
        yield server


@pytest.fixture
def cable(sshd: Sshd) -> Iterator[Cable]:
    """A cable to the SSH server."""
    with closing(Cable(sshd.port)) as cable:
        yield cable


class SmallMachine:
    """A board with little memory, emulated as a whole machine for as long as these tests run."""

    def __init__(self, link: Literal["ssh", "adb"]) -> None:
        self.profile = Profile(
            name=f"test-{link}-{os.getpid()}",
            title="Small board",
            processor="any",
            transport="vm",
            link=link,
            qemu_cpu="cortex-a53",
            cores=2,
            memory_mib=256,
        )
        self._packages = [] if link == "ssh" else None
        self.machine = Machine.boot(self.profile, home(self.profile), self._packages)
        self._transport: Vm | None = None

    def prepared(self) -> Vm:
        """Return a transport that is prepared, over SSH with numpy; the same as before, unless that was closed."""
        if self._transport is None or self._transport._inside is None:
            self._transport = Vm()
            self._transport.prepare(self.profile, self._packages)
        return self._transport

    def close(self) -> None:
        if self._transport:
            self._transport.close()
        self.machine.stop()
        shutil.rmtree(self.machine.folder)


@pytest.fixture(scope="session")
def machine() -> Iterator[SmallMachine]:
    with closing(SmallMachine("ssh")) as machine:
        yield machine


@pytest.fixture
def running(machine: SmallMachine, tmp_path: Path) -> str:
    """The name, for commands, of the machine that runs as long as these tests; nobody else uses it."""
    machine.prepared().close()
    path = tmp_path / "small.toml"
    facts = machine.profile.model_dump(exclude_defaults=True)
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in facts.items()))
    return str(path)


@pytest.fixture(scope="session")
def phone() -> Iterator[SmallMachine]:
    """What plays a phone, known to an adb server of its own."""
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as free:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
        free.close()
        with closing(SmallMachine("adb")) as phone:
            yield phone
        adbutils.AdbClient().server_kill()


@pytest.fixture(params=transports.names())
def device(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """A prepared device of every transport that there is, with numpy and nothing else."""
    transport: Transport
    if request.param == "ssh":
        transport, profile = Ssh(request.getfixturevalue("sshd").config), board("ssh")
    elif request.param in ("vm", "adb"):
        yield request.getfixturevalue("machine" if request.param == "vm" else "phone").prepared()
        return
    else:
        transport = transports.transport(request.param)
        profile = next(found for found in profiles() if found.transport == request.param)
    with closing(transport):
        transport.prepare(profile, [])
        yield transport
