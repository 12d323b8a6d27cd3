"""The report stage: a measurement file in; a page, the same in other formats, and the results of its gates out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msq.atomic import write_text
from msq.errors import GateError, UsageError
from msq.measurement import Measurement, read
from msq.recipe import Gates
from reports import regression, sides
from reports.card import model_card
from reports.document import Document, as_csv, document
from reports.gates import evaluate
from reports.junit import junit
from reports.page import render
from reports.runs import runs
from reports.store import DEFAULT
from reports.summary import markdown
from reports.thumbnails import albums


@dataclass(frozen=True)
class Outputs:
    """The files that are written; None is not. docs/reports.md says what each holds."""

    page: Path | None = None
    markdown: Path | None = None
    csv: Path | None = None
    card: Path | None = None
    junit: Path | None = None


@dataclass(frozen=True)
class ReportResult:
    """A report, and where it was written."""

    measurement: Measurement
    document: Document
    outputs: Outputs

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return self.document.passed

    def raise_for_gates(self) -> None:
        """Do nothing when every gate passed. Raises GateError, which names those that failed."""
        failed = [result.words for result in self.document.gates if result.outcome == "failed"]
        if failed:
            page = self.outputs.page or self.outputs.markdown
            hint = f"{page} shows every gate and where its figures come from" if page else ""
            raise GateError("; ".join(failed), hint=hint)


def report(
    measurement: Path,
    outputs: Outputs,
    gates: Gates | None = None,
    baseline: str | None = None,
    store: Path = DEFAULT,
    evaluation: Path | None = None,
) -> ReportResult:
    """Write the report of a measurement and judge its gates. A gate that fails is a result, not an error.

    Args:
        measurement: a measurement's JSON file.
        gates: the recipe's gates; without them only the standing gate, bit-exactness, is judged.
        baseline: what max_regression is judged against, as reports.sides.baseline takes it.
        store: where it is kept, and all the runs that the page shows it among.
        evaluation: folder with the test images, whose worst confusions the page shows.
    Raises:
        BundleError: the measurement is missing or does not fit its schema.
        StorageError: a file cannot be written.
        UsageError: one of them is a folder, the baseline is of something else, or the measurement is of no bundle.
    """
    for path in vars(outputs).values():
        if path and path.is_dir():
            raise UsageError(f"{path} is a folder", hint=f"name the file, such as {path / 'report.html'}")
    found = read(measurement)
    if not isinstance(found, Measurement):
        raise UsageError(f"{measurement}: a model file's, not a bundle's", hint="`msq compare` compares it with others")
    results = evaluate(gates, found)
    if gates:
        results += regression.evaluate(gates.max_regression, found, sides.baseline(found, baseline, store))
    made = document(found, results)
    pictures = albums(found, evaluation) if evaluation else ()
    written: list[tuple[Path | None, Callable[[], str]]] = [
        (outputs.page, lambda: render(found, results, runs(found, store), pictures)),
        (outputs.markdown, lambda: markdown(made)),
        (outputs.csv, lambda: as_csv(made)),
        (outputs.card, lambda: model_card(found, made)),
        (outputs.junit, lambda: junit(found, results)),
    ]
    for path, text in written:
        if path:
            write_text(path, text())
    return ReportResult(found, made, outputs)
