"""Measurements as devices write them, on an emulated board and on the host."""

import random
from pathlib import Path

import pytest
from measurements import evaluation_of, manifest, predictions

from msq.measurement import Device, Environment, Measurement, TensorParity
from msq.provenance import Figure, Kind
from msq.recipe import Gates


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


@pytest.fixture
def evaluation(local: Measurement, tmp_path: Path) -> Path:
    return evaluation_of(local, tmp_path)
