"""Classes: where on the test images the device was right and wrong."""

from collections import Counter
from dataclasses import dataclass

from msq.measurement import Measurement
from msq.provenance import Figure, proportion
from reports.figures import observed
from reports.wording import printable


@dataclass(frozen=True)
class Confusion:
    """How often images of one class were taken for another; share is of the images of that class."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Classes:
    """Names of the classes that occur, in label order; counts[i][j] images of class i were taken for class j."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    accuracy: dict[str, Figure]
    confusions: tuple[Confusion, ...]
    """The confusions that occur, the most frequent first."""


def classes(measurement: Measurement) -> Classes:
    """Count the device's predictions by class. A label without a name is called by its number."""
    said = Counter((answer.label, answer.predicted) for answer in measurement.predictions)
    ids = sorted({label for pair in said for label in pair})
    names = {label: class_name(label, measurement.manifest.labels) for label in ids}
    totals = Counter(answer.label for answer in measurement.predictions)
    kind = observed(measurement.device)
    return Classes(
        names=tuple(names.values()),
        counts=tuple(tuple(said[label, other] for other in ids) for label in ids),
        accuracy={names[label]: proportion(said[label, label], totals[label], kind) for label in ids if totals[label]},
        confusions=tuple(
            Confusion(names[label], names[other], count, count / totals[label])
            for (label, other), count in said.most_common()
            if label != other
        ),
    )


def class_name(label: int, labels: tuple[str, ...]) -> str:
    """Return a class's name; its number where it has none."""
    return printable(labels[label]) if 0 <= label < len(labels) else f"class {label}"
