"""The model card: Hugging Face's head of metadata, then what the model is, how it was checked and where it was run."""

from collections.abc import Sequence

import yaml

from msq.measurement import Measurement
from msq.provenance import Figure
from reports import wording
from reports.document import Document
from reports.markdown import bullets, table, text
from reports.summary import figure_table, gate_table, legend


def model_card(measurement: Measurement, found: Document) -> str:
    """Return the card as Markdown with a YAML head, as huggingface.co reads it."""
    manifest, spec = measurement.manifest, measurement.manifest.input
    head = yaml.safe_dump(_head(found), sort_keys=False, allow_unicode=False)
    what = (
        f"{manifest.model}, trained by {manifest.method} on {manifest.data.name} to {manifest.average_bits:.2f} stored "
        f"bits a weight. It takes {spec.height} × {spec.width} images of {spec.channels} channels and tells "
        f"{len(manifest.labels)} classes apart: {', '.join(manifest.labels)}."
    )
    run = (
        f"Run on {found.device.title} ({wording.engine(found.device)}, {found.device.cpu}) by {found.runtime} "
        f"{found.runtime_version}. {found.verdict}."
    )
    parts = [
        f"# {text(found.name)}",
        text(what),
        "## Evaluation",
        text(run),
        figure_table(found.figures),
        gate_table(found.gates),
        "\n".join(legend(found.figures.values())),
        "## Limits",
        bullets(_limits(found)),
        "## Widths",
        table(("Layer", "Kind", "Weights", "Bits"), _layers(found)),
        "## How it was made",
        bullets(_made(found)),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _head(found: Document) -> dict[str, object]:
    """Return the metadata, by the names of Hugging Face's model card specification."""
    shown = {
        "accuracy.deployed": "Top-1 of the deployed integer model, whole test set, on the exporting host",
        "top1": f"Top-1 on {found.device.name}, {wording.engine(found.device)}",
        "accuracy.float": "Top-1 of the float model it was made of",
    }
    metrics = [
        {"type": "accuracy", "name": wording.printable(name), "value": _rounded(found.figures[key])}
        for key, name in shown.items()
        if key in found.figures
    ]
    data = {"name": found.made.data.name, "type": found.made.data.name, "split": "test"}
    result = {"task": {"type": "image-classification"}, "dataset": data, "metrics": metrics}
    return {
        "library_name": "msq-edge",
        "pipeline_tag": "image-classification",
        "tags": ["quantization", "mixed-precision", "edge", found.method, found.runtime],
        "datasets": [found.made.data.name],
        "metrics": ["accuracy"],
        "model-index": [{"name": found.name, "results": [result]}] if metrics else [],
    }


def _rounded(figure: Figure) -> float:
    return round(figure.value, 6)


def _limits(found: Document) -> list[str]:
    limits = [f"{one.what}: {one.why}" for one in found.absences]
    weakest = sorted(found.classes.items(), key=lambda item: item[1].value)[:3]
    if weakest:
        said = "; ".join(f"{name} {wording.figure(figure)} ({wording.interval(figure)})" for name, figure in weakest)
        limits.append(f"It is weakest for these classes, on the device: {said}.")
    return [*limits, *(f"Doubtful: {doubt}" for doubt in found.doubts)]


def _layers(found: Document) -> Sequence[tuple[str, ...]]:
    return [(layer.name, layer.op, f"{layer.weights:,}", str(layer.bits)) for layer in found.layers]


def _made(found: Document) -> list[str]:
    made = found.made
    return [
        f"data: {made.data.name}, sha256 {made.data.sha256}",
        f"{made.data.train:,} training and {made.data.test:,} test images",
        f"seed: {made.seed}",
        f"checkpoint: sha256 {made.checkpoint_sha256}",
        f"bundle: sha256 of the manifest {made.manifest_sha256}",
        f"command: {made.command}",
        *(f"{name} {version}" for name, version in sorted(made.versions.items())),
    ]
