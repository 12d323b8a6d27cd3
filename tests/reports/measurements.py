"""Measurements as devices write them, for the tests to change: a ResNet-8 on Fashion-MNIST."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from msq.bundle import Fidelity, Layer, Manifest, Parity, Sizes
from msq.checkpoint import Accuracy, DataId, EpochRecord, InputSpec
from msq.measurement import FileMeasurement, Measurement, Observation, Prediction
from msq.packing import packed_size

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


def of_file(measurement: Measurement) -> FileMeasurement:
    """Return what a model file gives where the bundle gave the measurement."""
    kept = {name: getattr(measurement, name) for name in Observation.model_fields}
    one = {"name": "float.onnx", "sha256": "ab" * 32, "size": (28, 28, 1), "mean": (0.0,), "std": (1.0,)}
    return FileMeasurement(**{**kept, **one, "runtime": "onnxruntime-file"})


def evaluation_of(measurement: Measurement, folder: Path) -> Path:
    """Write images of noise with the labels that the measurement was taken with; return the folder."""
    labels = np.zeros(3000, np.int64)
    for said in measurement.predictions:
        labels[said.index] = said.label
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 255, (3000, 28, 28, 1)).astype(np.uint8))
    np.save(folder / "labels.npy", labels)
    return folder


def change(measurement: Measurement, **updates: Any) -> Measurement:
    """Update the measurement, and its manifest by the fields that are the manifest's."""
    inner = {name: value for name, value in updates.items() if name in type(measurement.manifest).model_fields}
    outer = {name: value for name, value in updates.items() if name not in inner}
    return measurement.model_copy(update={"manifest": measurement.manifest.model_copy(update=inner), **outer})


def other_run(measurement: Measurement) -> Measurement:
    """Return another run on the same data: fewer bits, a smaller file, less accurate, faster."""
    manifest = measurement.manifest
    layers = tuple(layer.model_copy(update={"bits": max(1, layer.bits - 1)}) for layer in manifest.layers)
    sizes = manifest.sizes.model_copy(update={"model_bytes": manifest.sizes.model_bytes - 4000})
    accuracy = (Accuracy(what="deployed", correct=9000, n=10_000),)
    figures = {
        name: figure.model_copy(update={"value": 0.9 * figure.value}) if name.startswith("latency") else figure
        for name, figure in measurement.figures.items()
    }
    return change(measurement, layers=layers, sizes=sizes, accuracy=accuracy, average_bits=2.0, figures=figures)


PAYLOAD = "</title></style></svg><script>alert(1)</script><img src=x onerror=alert(1)>\"'\x1b\x00‮{{7*7}}"
LITERALS = {"what", "op", "kind", "engine", "runtime_mode", "unit", "value"}


def hostile(value: Any, key: str = "") -> Any:
    """Add the payload to every free text, keys of free tables included."""
    if isinstance(value, dict):
        free = key in {"timeline", "facts", "libraries", "versions", "files", "differing", "figures", "bits"}
        return {name + PAYLOAD if free else name: hostile(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, key) for inner in value]
    return value + PAYLOAD if isinstance(value, str) and key not in LITERALS else value
