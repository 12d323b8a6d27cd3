"""Measurements as devices write them: a ResNet-8 on Fashion-MNIST, on an emulated board and on the host."""

import random

import pytest

from msq.bundle import Fidelity, Layer, Manifest, Parity, Sizes
from msq.checkpoint import Accuracy, DataId, EpochRecord, InputSpec
from msq.measurement import Device, Environment, Measurement, Prediction, TensorParity
from msq.packing import packed_size
from msq.provenance import Figure, Kind
from msq.recipe import Gates

LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# Of a thousand images of each class, how many come out right, and what the rest are mostly taken for.
RIGHT = (866, 984, 881, 917, 868, 979, 748, 969, 985, 962)
TAKEN_FOR = (6, 3, 4, 4, 6, 7, 0, 9, 6, 7)

CONVOLUTIONS = (
    ("stem.conv", (16, 1, 3, 3), 8, 0.412, 3.81),
    ("stages.0.conv1", (16, 16, 3, 3), 4, 0.228, 0.946),
    ("stages.0.conv2", (16, 16, 3, 3), 4, 0.241, 0.871),
    ("stages.1.conv1", (32, 16, 3, 3), 3, 0.187, 0.502),
    ("stages.1.conv2", (32, 32, 3, 3), 3, 0.176, 0.338),
    ("stages.1.shortcut", (32, 16, 1, 1), 5, 0.264, 1.27),
    ("stages.2.conv1", (64, 32, 3, 3), 3, 0.152, 0.214),
    ("stages.2.conv2", (64, 64, 3, 3), 2, 0.094, 0.0631),
    ("stages.2.shortcut", (64, 32, 1, 1), 4, 0.201, 0.655),
    ("classifier", (10, 64), 6, 0.305, 2.08),
)


def layers() -> tuple[Layer, ...]:
    made = []
    for name, shape, bits, beta, omega in CONVOLUTIONS:
        inputs = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
        made.append(
            Layer(
                name=name,
                op="conv2d" if len(shape) == 4 else "linear",
                shape=shape,
                weights=shape[0] * inputs,
                bits=bits,
                paper_bits=bits - 1,
                packed_bytes=packed_size(shape[0], inputs, bits),
                beta=beta,
                omega=omega,
            )
        )
    return tuple(made)


def sizes(stored: tuple[Layer, ...]) -> Sizes:
    outputs = sum(layer.shape[0] for layer in stored)
    weights = sum(layer.weights for layer in stored)
    weight_bytes = -(-sum(layer.bits * layer.weights for layer in stored) // 8)
    return Sizes(
        weight_bytes=weight_bytes,
        parameter_bytes=8 * outputs,
        model_bytes=sum(layer.packed_bytes for layer in stored) + 8 * outputs + 21_340,
        limit_bytes=int(1.02 * (weight_bytes + 8 * outputs)) + 32 * 1024,
        float32_bytes=4 * (weights + outputs),
        int8_bytes=weights + 8 * outputs,
        resident_weight_bytes=weights,
        resident_note="stock kernels hold the weights unpacked, one byte each",
    )


def history(stored: tuple[Layer, ...]) -> tuple[EpochRecord, ...]:
    weights = sum(layer.weights for layer in stored)
    records = [
        EpochRecord(phase="float", epoch=epoch, loss=0.71 / (epoch + 1) ** 0.5, average_bits=32.0) for epoch in range(4)
    ]
    for epoch, dropped in enumerate((0, 2, 4, 6, 6, 6)):
        bits = {layer.name: max(layer.bits, 8 - dropped) for layer in stored}
        average = sum(bits[layer.name] * layer.weights for layer in stored) / weights
        phase = "msq" if epoch < 4 else "finetune"
        records.append(EpochRecord(phase=phase, epoch=epoch, loss=0.41 - 0.03 * epoch, average_bits=average, bits=bits))
    return tuple(records)


def manifest() -> Manifest:
    stored = layers()
    weights = sum(layer.weights for layer in stored)
    return Manifest(
        name="fashion-resnet8",
        lowering="onnx",
        model="resnet8",
        method="msq",
        input=InputSpec(height=28, width=28, channels=1, mean=(0.286,), std=(0.353,)),
        labels=LABELS,
        layers=stored,
        average_bits=sum(layer.bits * layer.weights for layer in stored) / weights,
        budget_bits=2.7,
        paper_compression=32 * weights / sum(layer.paper_bits * layer.weights for layer in stored),
        sizes=sizes(stored),
        parity=Parity(tensors=24, values=1_215_488, max_lsb=0),
        fidelity=Fidelity(images=512, agreeing=511, max_lsb=1),
        accuracy=(
            Accuracy(what="float", correct=9204, n=10_000),
            Accuracy(what="ptq8", correct=9198, n=10_000),
            Accuracy(what="trained", correct=9142, n=10_000),
        ),
        history=history(stored),
        data=DataId(name="fashion-mnist", sha256="6f1c" * 16, train=60_000, test=10_000),
        seed=0,
        training_seconds=417.0,
        checkpoint_sha256="9b2e" * 16,
        versions={"msq-edge": "0.1.0", "torch": "2.13.0", "onnx": "1.22.0", "onnxruntime": "1.31.1"},
        files={"model.onnx": "41d0" * 16, "weights.bin": "e5a7" * 16, "golden.npz": "08c3" * 16},
    )


def predictions(count: int) -> tuple[Prediction, ...]:
    draw = random.Random(7)
    said = []
    for index in range(count):
        label = draw.randrange(len(LABELS))
        missed = draw.random() * 1000 > RIGHT[label]
        other = TAKEN_FOR[label] if draw.random() < 0.7 else draw.randrange(len(LABELS))
        said.append(Prediction(index=index, label=label, predicted=other if missed else label))
    return tuple(said)


@pytest.fixture(scope="session")
def emulated() -> Measurement:
    """On an emulated Raspberry Pi 4: 3,000 images, no times."""
    bundle, said = manifest(), predictions(3000)
    right = sum(answer.label == answer.predicted for answer in said)
    kind = Kind.EMULATED
    return Measurement(
        manifest=bundle,
        manifest_sha256="c0de" * 16,
        runtime="onnxruntime",
        runtime_version="1.31.1",
        runtime_mode="stock",
        device=Device(
            name="raspberrypi4",
            title="Raspberry Pi 4 Model B",
            transport="emulator",
            engine="qemu-user",
            cpu="cortex-a72",
            facts={"Cores": "4 × Cortex-A72, 1.5 GHz", "Memory": "4 GB LPDDR4", "L2 cache": "1 MiB, shared"},
        ),
        environment=Environment(
            machine="aarch64",
            python="3.11.2",
            kernel="Linux 6.1.0",
            emulator="qemu-aarch64 7.2.22",
            threads=1,
            libraries={"numpy": "2.4.6", "onnxruntime": "1.31.1"},
        ),
        parity=TensorParity(
            tensors=24, values=1_215_488, equal_to_host=True, equal_to_oracle=True, max_lsb_to_oracle=0
        ),
        figures={
            "top1": Figure(value=right / 3000, unit="fraction", kind=kind, low=0.902, high=0.922, n=3000),
            "host_top1": Figure(value=0.9142, unit="fraction", kind=Kind.MEASURED_HOST, n=10_000),
            "model_bytes": Figure(value=bundle.sizes.model_bytes, unit="bytes", kind=Kind.ARTEFACT),
            "weight_bytes": Figure(value=bundle.sizes.weight_bytes, unit="bytes", kind=Kind.ARTEFACT),
            "resident_weight_bytes": Figure(
                value=bundle.sizes.resident_weight_bytes,
                unit="bytes",
                kind=Kind.MODELLED,
                note=bundle.sizes.resident_note,
            ),
        },
        predictions=said,
        created="2025-11-22T14:05:31+00:00",
        command="msq deploy recipes/fashion-resnet8.yaml --device raspberrypi --runtime onnxruntime",
    )


@pytest.fixture(scope="session")
def local(emulated: Measurement) -> Measurement:
    """On the machine that ran the toolchain: with times, and one operator that differs from the oracle."""
    draw = random.Random(11)
    samples = tuple(0.00062 + abs(draw.gauss(0, 0.00004)) + (0.0004 if draw.random() < 0.03 else 0) for _ in range(300))
    ordered = sorted(samples)
    host = Kind.MEASURED_HOST
    times = {
        name: Figure(value=ordered[int(share * 300)], unit="seconds", kind=host, n=300, note="nearest rank")
        for name, share in (("latency_p50", 0.5), ("latency_p90", 0.9))
    }
    memory = {"peak_memory": Figure(value=41_300_000, unit="bytes", kind=host, note="VmHWM")}
    return emulated.model_copy(
        update={
            "device": Device(
                name="local", title="This machine", transport="local", engine="host", cpu="Intel Xeon", facts={}
            ),
            "environment": emulated.environment.model_copy(update={"machine": "x86_64", "emulator": None}),
            "parity": TensorParity(
                tensors=24,
                values=1_215_488,
                equal_to_host=True,
                equal_to_oracle=False,
                max_lsb_to_oracle=1,
                differing={"add": 1},
            ),
            "figures": {
                "top1": emulated.figures["top1"].model_copy(update={"kind": host}),
                **{name: found for name, found in emulated.figures.items() if name != "top1"},
                **memory,
                **times,
            },
            "latency_seconds": samples,
        }
    )


@pytest.fixture
def gates() -> Gates:
    return Gates(min_top1=0.91, max_drop_vs_float=0.01, max_size_kb=120)
