"""Absences: what a reader would look for and this measurement does not hold, each with the reason."""

from dataclasses import dataclass

from msq.measurement import Measurement
from reports.figures import TITLES, test_set_accuracies


@dataclass(frozen=True)
class Absence:
    """Something that was not measured, and why."""

    what: str
    why: str


def absences(measurement: Measurement) -> list[Absence]:
    """Return what is not in the measurement, in the order a reader would miss it."""
    return [*_speed(measurement), *_memory(measurement), *_accuracy(measurement)]


def _speed(measurement: Measurement) -> list[Absence]:
    device = measurement.device
    missing = []
    if device.emulated:
        why = "The processor is emulated: it gives the board's answers, in a time that says nothing of the board's."
        missing.append(Absence("Latency and throughput", why))
    elif not measurement.latency_seconds:
        missing.append(Absence("Latency and throughput", "No timed runs were recorded."))
    elif device.engine == "host":
        missing.append(Absence("Latency on a board", "The times here are of the host, and of no board."))
    if not device.emulated:
        missing.append(Absence("Latency layer by layer", "No agent times single layers."))
    missing.append(Absence("Energy", "It takes a power meter on a board."))
    return missing


def _memory(measurement: Measurement) -> list[Absence]:
    if "peak_memory" in measurement.figures:
        return []
    if measurement.device.engine == "qemu-user":
        return [Absence("Peak memory", "The emulator's own memory is mixed with that of the program it runs.")]
    return [Absence("Peak memory", "The run did not record it.")]


def _accuracy(measurement: Measurement) -> list[Absence]:
    missing = []
    ran, total = len(measurement.predictions), measurement.manifest.data.test
    if not ran:
        missing.append(Absence("Accuracy on the device", "The device was given no test images."))
    elif ran < total:
        why = f"It was given {ran:,} of {total:,} images; the interval says how far the sample may be off."
        missing.append(Absence("The full test set on the device", why))
    known = test_set_accuracies(measurement.manifest)
    missing += [
        Absence(f"Accuracy: {title}", "The checkpoint does not hold it.")
        for title in TITLES.values()
        if title not in known
    ]
    return missing
