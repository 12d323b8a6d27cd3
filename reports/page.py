"""The page: one self-contained HTML file that a product team reads, offline, in light or dark, or on paper."""

import base64
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from msq.bundle import Sizes
from msq.checkpoint import EpochRecord
from msq.measurement import Measurement
from msq.provenance import MEANING, Figure, Kind
from reports import charts, figures, gates, memory_charts, run_charts, wording
from reports.absences import absences
from reports.audit import stored_bytes
from reports.classes import Classes, classes
from reports.drawing import Drawing
from reports.gates import GateResult
from reports.runs import Run
from reports.thumbnails import Album

MOST_CLASSES = 20
"""Up to so many classes, all are drawn and the confusion matrix is shown; beyond, the weakest ones are drawn."""


def render(
    measurement: Measurement,
    results: Sequence[GateResult],
    runs: Sequence[Run] = (),
    albums: Sequence[Album] = (),
) -> str:
    """Return the page as HTML. Nothing that stands in the measurement can become markup, script or a link.

    Args:
        runs: all that the measurement is seen among, itself included. albums: images of the worst confusions.
    """
    content = _content(measurement, results) | _memory(measurement) | _among(measurement, runs)
    return _environment().get_template("page.html.j2").render(content, albums=albums, sections=_sections(content))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("reports", "."),
        # The template's name does not end in .html, so escaping is switched on by hand.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {
        "figure": wording.figure,
        "interval": wording.interval,
        "size": wording.size,
        "shape": wording.shape,
        "duration": wording.duration,
    }
    return environment


def _printable(value: Any) -> Any:
    return wording.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _content(measurement: Measurement, results: Sequence[GateResult]) -> dict[str, Any]:
    manifest, device = measurement.manifest, measurement.device
    answers = classes(measurement)
    test_set = figures.test_set_accuracies(manifest)
    on_device = figures.device_accuracy(measurement)
    records = trained_bits(manifest.history)
    times, samples = figures.times(measurement), measurement.latency_seconds
    script = files("reports").joinpath("page.js").read_text(encoding="utf-8")
    return {
        "style": Markup(files("reports").joinpath("style.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        # No other script runs, whatever the data hold.
        "script_sha256": base64.b64encode(sha256(script.encode()).digest()).decode(),
        "measurement": measurement,
        "manifest": manifest,
        "device": device,
        "engine": wording.engine(device),
        "kinds": Kind,
        "badge": wording.BADGE,
        "meaning": MEANING,
        "observed": figures.observed(device),
        "results": results,
        "verdict": gates.verdict(results),
        "passed": not any(result.outcome == "failed" for result in results),
        "summary": summary(measurement),
        "test_set": test_set,
        "on_device": on_device,
        "average_bits": figures.average_bits(manifest),
        "file_size": figures.file_size(manifest),
        "bytes": _bytes(manifest.sizes),
        "stored": {title: f"{count:,}" for title, count in stored_bytes(manifest).items()},
        "conditions": _conditions(measurement),
        "resident": measurement.figures.get("resident_weight_bytes"),
        "compressions": {name: wording.figure(found) for name, found in figures.compressions(manifest).items()},
        "recorded": figures.recorded(measurement),
        "times": times,
        "answers": answers,
        "most_classes": MOST_CLASSES,
        "absences": absences(measurement),
        "test_set_chart": _accuracy_chart("Top-1 on the full test set", test_set),
        "device_chart": _accuracy_chart(
            "Top-1 on the device", {figures.TITLES["deployed"]: on_device} if on_device else {}
        ),
        "class_chart": _class_chart(answers),
        "layer_chart": charts.layers(manifest.layers, _layers_in_words(measurement)) if manifest.layers else None,
        "history_charts": _history_charts(records, manifest.budget_bits),
        "records": records,
        "float_epochs": len(manifest.history) - len(records),
        "size_chart": charts.sizes(manifest.sizes, _sizes_in_words(measurement)),
        "latency_chart": _latency_chart(measurement, times),
        "latency_cut": bool(times) and charts.latency_top(samples) < max(samples),
    }


def _memory(measurement: Measurement) -> dict[str, Any]:
    """Return the charts of memory and of where the file's bytes lie."""
    arena, layers = measurement.manifest.arena, measurement.manifest.layers
    found = figures.memory(measurement)
    said = ", ".join(f"{name} {wording.figure(figure)}" for name, figure in found.items())
    return {
        "level_chart": memory_charts.levels(found, f"Memory of the process: {said}.") if found else None,
        "arena_chart": memory_charts.arena(
            arena, f"Bytes in use of the arena over {len(arena.timeline)} nodes, at most {wording.size(arena.bytes)}."
        )
        if arena and arena.timeline
        else None,
        "width_chart": memory_charts.widths(layers, "Packed bytes of the layers of each width.") if layers else None,
    }


def _among(measurement: Measurement, runs: Sequence[Run]) -> dict[str, Any]:
    """Return all runs, their Pareto plots, and the allocations of bits to this model's layers, each once."""
    layers = [layer.name for layer in measurement.manifest.layers]
    distinct = {tuple(run.bits.values()): run for run in runs if list(run.bits) == layers}
    drawn = [(run_charts.against_size(runs, "Accuracy against size of all runs."), "Accuracy against size.")]
    for kind in (Kind.MEASURED_BOARD, Kind.MEASURED_HOST):
        where = MEANING[kind]
        chart = run_charts.against_latency(runs, kind, f"Accuracy against latency, {where}.")
        drawn.append((chart, f"Accuracy against latency, p50, {where}."))
    return {
        "runs": runs,
        "frontier": run_charts.FRONTIER,
        "run_charts": [(chart, caption) for chart, caption in drawn if chart],
        "allocations": sorted(distinct.values(), key=lambda run: run.average_bits.value),
    }


def _sections(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the sections that the page has, by anchor."""
    shown = {
        "gates": ("Gates", True),
        "accuracy": ("Accuracy", True),
        "classes": ("Classes", content["class_chart"]),
        "bits": ("Bits", True),
        "size": ("Size", True),
        "latency": ("Latency", content["latency_chart"]),
        "memory": ("Memory", content["level_chart"] or content["arena_chart"]),
        "all-runs": ("All runs", len(content["runs"]) > 1),
        "parity": ("Parity", True),
        "device": ("Device", True),
        "absent": ("Not measured", True),
        "figures": ("Every figure", True),
        "again": ("Make it again", True),
    }
    return {anchor: title for anchor, (title, there) in shown.items() if there}


def summary(measurement: Measurement) -> str:
    """Return in a sentence or two what a reader in a hurry should know."""
    manifest = measurement.manifest
    net = manifest.net
    base = figures.test_set_accuracy(manifest, "float")
    ratio = manifest.sizes.float32_bytes / manifest.sizes.model_bytes
    taken = wording.size(manifest.sizes.model_bytes)
    said = f"At {manifest.average_bits:.2f} stored bits a weight the model file takes {taken}, "
    said += f"{ratio:.1f} times less than its weights in float32."
    if net:
        said += f" It classifies {wording.percent(net.top1)} of the test set correctly"
        if base:
            side = "above" if net.top1 > base.value else "below"
            said += f", {wording.points(net.top1 - base.value)} {side} the float model"
        said += "."
    return said


def trained_bits(history: tuple[EpochRecord, ...]) -> list[EpochRecord]:
    """Return the epochs in which bits were at stake: those of the float training are not."""
    return [record for record in history if record.bits]


def _accuracy_chart(title: str, rows: Mapping[str, Figure]) -> Drawing | None:
    if not rows:
        return None
    said = "; ".join(f"{name} {wording.figure(found)}" for name, found in rows.items())
    return charts.accuracies(rows, f"{title}: {said}.")


def _class_chart(answers: Classes) -> Drawing | None:
    weakest = sorted(answers.accuracy.items(), key=lambda item: item[1].value)[:MOST_CLASSES]
    return _accuracy_chart("Share of each class's images that the device got right", dict(weakest))


def _history_charts(records: list[EpochRecord], budget: float | None) -> list[Drawing]:
    if not records:
        return []
    first, last = records[0].average_bits, records[-1].average_bits
    said = f"over {len(records)} epochs: from {first:.2f} to {last:.2f} on average."
    return [
        charts.history(records, budget, f"Average stored bits a weight {said}"),
        charts.layer_history(records, f"Stored bits of each layer {said}"),
    ]


def _latency_chart(measurement: Measurement, times: Mapping[str, Figure]) -> Drawing | None:
    if not times:
        return None
    said = ", ".join(f"{name} {wording.figure(found)}" for name, found in times.items())
    samples = measurement.latency_seconds
    return charts.latencies(samples, times, f"{len(samples)} runs of one image: {said}.")


def _bytes(found: Sizes) -> dict[str, str]:
    named = {
        "Weights, as the bits say": found.weight_bytes,
        "Scales and biases": found.parameter_bytes,
        "Model file": found.model_bytes,
        "Limit of the model file": found.limit_bytes,
    }
    return {name: f"{count:,}" for name, count in named.items()}


def _conditions(measurement: Measurement) -> dict[str, str]:
    """Return how the processors fared while inferences were timed, before → after, as far as the device told."""
    found: dict[str, list[str]] = {"Governor": [], "Frequency, highest": [], "Temperature, highest": []}
    for state in measurement.conditions:
        found["Governor"].append(", ".join(dict.fromkeys(state.governors)))
        if state.frequencies_khz:
            found["Frequency, highest"].append(f"{max(state.frequencies_khz) / 1000:,.0f} MHz")
        if state.temperatures:
            found["Temperature, highest"].append(f"{max(state.temperatures.values()) / 1000:.0f} °C")
    return {name: " → ".join(dict.fromkeys(said)) for name, said in found.items()}


def _layers_in_words(measurement: Measurement) -> str:
    layers = measurement.manifest.layers
    bits = [layer.bits for layer in layers]
    return f"Stored bits of {len(layers)} layers, from {min(bits)} to {max(bits)}, and their numbers of weights."


def _sizes_in_words(measurement: Measurement) -> str:
    found = measurement.manifest.sizes
    named = {"Model file": found.model_bytes, "limit": found.limit_bytes}
    named |= {"int8 weights": found.int8_bytes, "float32 weights": found.float32_bytes}
    return ", ".join(f"{name} {wording.size(count)}" for name, count in named.items()) + "."
