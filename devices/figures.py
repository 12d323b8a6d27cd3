"""The figures of a measurement: every number with its unit and where it comes from."""

import numpy as np
from numpy.typing import NDArray

from devices.agent import Latency, Memory
from devices.quantiles import Estimator, percentiles
from devices.transport import Engine
from msq.bundle import Manifest
from msq.measurement import OBSERVED
from msq.provenance import Figure, Kind, proportion

KIND = OBSERVED


def observed(
    engine: Engine,
    right: NDArray[np.bool_],
    latency: Latency | None,
    memory: Memory | None,
    estimator: Estimator,
) -> dict[str, Figure]:
    """Return what was observed on a device, by name; see msq.measurement.

    Args:
        right: for each image, whether its class was; of none, nothing is said.
        latency, memory: None where they were not looked at. estimator: of the percentiles.
    """
    kind, note = KIND[engine], "random subset of the test images"
    return {
        **({"top1": proportion(int(right.sum()), len(right), kind, note)} if len(right) else {}),
        **(_latency(latency, estimator, kind) if latency else {}),
        **(_memory(memory, kind) if memory else {}),
    }


def of_bundle(manifest: Manifest) -> dict[str, Figure]:
    """Return what a bundle says of itself, by name: sizes, and the host's accuracy."""
    sizes = manifest.sizes
    found = {
        "model_bytes": Figure(value=sizes.model_bytes, unit="bytes", kind=Kind.ARTEFACT),
        "weight_bytes": Figure(value=sizes.weight_bytes, unit="bytes", kind=Kind.ARTEFACT),
        "resident_weight_bytes": Figure(
            value=sizes.resident_weight_bytes, unit="bytes", kind=Kind.MODELLED, note=sizes.resident_note
        ),
    }
    if net := manifest.net:
        note = "the whole test set on the exporting host"
        found["host_top1"] = proportion(net.correct, net.n, Kind.MEASURED_HOST, note)
    return found


def _latency(latency: Latency, estimator: Estimator, kind: Kind) -> dict[str, Figure]:
    note = f"one image, preprocessing left out; {estimator.name}"
    return {
        f"latency_p{percent}": Figure(value=value, unit="seconds", kind=kind, n=len(latency.seconds), note=note)
        for percent, value in percentiles(latency.seconds, estimator).items()
    }


def _memory(memory: Memory, kind: Kind) -> dict[str, Figure]:
    """Return the memory of a whole process that runs one image at a time, and its first answer where times are real."""
    levels = [level for level in (memory.load_peak, memory.run_peak) if level is not None]
    known = {
        "peak_memory": (max(levels, default=None), "the whole process at its highest, one image at a time"),
        "load_peak_memory": (memory.load_peak, "the whole process, until the model was loaded"),
        "run_peak_memory": (memory.run_peak, "the whole process, once the model was loaded"),
        "anonymous_memory": (memory.anonymous, "the process's own pages, after some runs"),
        "file_memory": (memory.file_mapped, "pages of files, which the system can drop and read again"),
    }
    found = {
        name: Figure(value=value, unit="bytes", kind=kind, note=note)
        for name, (value, note) in known.items()
        if value is not None
    }
    if kind is not Kind.EMULATED:
        note = "from the start of the process to the first answer, the check of the bundle's files included"
        found["first_answer"] = Figure(value=memory.first_seconds, unit="seconds", kind=kind, n=1, note=note)
    return found
