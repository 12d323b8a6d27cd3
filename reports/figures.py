"""The figures of a report: what a measurement holds and what follows exactly from it, each with its provenance."""

from msq.bundle import Manifest
from msq.measurement import OBSERVED, Device, Measurement, Observation, Prediction
from msq.provenance import Figure, Kind, proportion

LATENCY = "latency_"
"""What the names of the figures of latency begin with."""
TITLES = {
    "float": "Float",
    "ptq8": "8-bit, post-training",
    "trained": "As trained, mixed precision",
    "deployed": "As deployed",
}


def observed(device: Device) -> Kind:
    """Return the provenance of what the device did."""
    return OBSERVED[device.engine]


def test_set_accuracy(manifest: Manifest, what: str) -> Figure | None:
    """Return a net's top-1 on the full test set, evaluated on the host; None where it was not."""
    for accuracy in manifest.accuracy:
        if accuracy.what == what and accuracy.n:
            return proportion(accuracy.correct, accuracy.n, Kind.MEASURED_HOST)
    return None


def test_set_accuracies(manifest: Manifest) -> dict[str, Figure]:
    """Return the accuracies on the full test set by title: float, 8-bit, MSQ trained and deployed, as far as known."""
    found = {title: test_set_accuracy(manifest, what) for what, title in TITLES.items()}
    return {title: figure for title, figure in found.items() if figure}


def device_accuracy(measurement: Observation) -> Figure | None:
    """Return the device's top-1 over its predictions; None where it predicted nothing."""
    return share_right(measurement.predictions, observed(measurement.device))


def share_right(predictions: tuple[Prediction, ...], kind: Kind) -> Figure | None:
    """Return the share of predictions that are right; None of none."""
    if not predictions:
        return None
    return proportion(sum(said.label == said.predicted for said in predictions), len(predictions), kind)


def average_bits(manifest: Manifest) -> Figure:
    """Return stored bits a weight, signs included."""
    return Figure(value=manifest.average_bits, unit="bits", kind=Kind.ARTEFACT)


def compressions(manifest: Manifest) -> dict[str, Figure]:
    """Return the three ways to say how much smaller than float32 the model is, each under what it counts."""
    found = {"Whole model file": _ratio(manifest.sizes.float32_bytes, manifest.sizes.model_bytes)}
    if manifest.average_bits:
        found["Weights, by stored bits"] = _ratio(32, manifest.average_bits)
    if manifest.paper_compression:
        found["Weights, as papers count (signs left out)"] = _ratio(manifest.paper_compression, 1)
    return found


def file_size(manifest: Manifest) -> Figure:
    """Return the bytes that the runtime loads."""
    return stored(manifest.sizes.model_bytes)


def stored(count: int, unit: str = "bytes") -> Figure:
    """Return a number read off, or computed exactly from, a file."""
    return Figure(value=count, unit=unit, kind=Kind.ARTEFACT)


def recorded(measurement: Observation) -> dict[str, Figure]:
    """Return the measurement's own figures, without times that an emulator took: those say nothing of a board."""
    return {
        name: figure
        for name, figure in measurement.figures.items()
        if not measurement.device.emulated or figure.unit != "seconds"
    }


def times(measurement: Observation) -> dict[str, Figure]:
    """Return the latencies by the name of their percentile; none where no times were taken that mean something."""
    if not measurement.latency_seconds:
        return {}
    found = recorded(measurement).items()
    return {name.removeprefix(LATENCY): figure for name, figure in found if name.startswith(LATENCY)}


def memory(measurement: Measurement) -> dict[str, Figure]:
    """Return the levels of memory by title, as far as they were measured."""
    titles = {
        "load_peak_memory": "Peak, loading",
        "run_peak_memory": "Peak, running",
        "anonymous_memory": "Steady, own pages",
        "file_memory": "Steady, of files",
    }
    found = recorded(measurement)
    return {title: found[name] for name, title in titles.items() if name in found}


def _ratio(above: float, below: float) -> Figure:
    return Figure(value=above / below, unit="×", kind=Kind.ARTEFACT)
