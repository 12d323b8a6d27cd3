"""The report stage: a measurement file in, a page and the results of its gates out."""

from pathlib import Path

from pydantic import Field

from msq.artefact import Strict
from msq.atomic import write_text
from msq.errors import GateError, UsageError
from msq.measurement import Measurement
from msq.recipe import Gates
from reports import regression, sides
from reports.gates import GateResult, evaluate
from reports.junit import junit
from reports.page import render
from reports.store import DEFAULT


class ReportResult(Strict):
    """Where the page lies, and how each gate came out."""

    page: Path
    gates: tuple[GateResult, ...]
    passed: bool
    measurement: Measurement = Field(exclude=True)

    def raise_for_gates(self) -> None:
        """Do nothing when every gate passed. Raises GateError, which names those that failed."""
        failed = [result.words for result in self.gates if result.outcome == "failed"]
        if failed:
            raise GateError("; ".join(failed), hint=f"{self.page} shows every gate and where its figures come from")


def report(
    measurement: Path,
    out: Path,
    gates: Gates | None = None,
    junit_file: Path | None = None,
    baseline: str | None = None,
    store: Path = DEFAULT,
) -> ReportResult:
    """Write the page of a measurement and judge its gates. A gate that fails is a result, not an error.

    Args:
        measurement: a measurement's JSON file.
        out: the HTML file to write.
        gates: the recipe's gates; without them only the standing gate, bit-exactness, is judged.
        junit_file: where the gates are written as JUnit XML, if anywhere.
        baseline: what max_regression is judged against, as reports.sides.baseline takes it. store: where it is kept.
    Raises:
        BundleError: the measurement is missing or does not fit its schema.
        StorageError: the page cannot be written.
        UsageError: out is a folder.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder", hint=f"name the page, such as {out / 'report.html'}")
    found = Measurement.read(measurement)
    results = evaluate(gates, found)
    if gates:
        results += regression.evaluate(gates.max_regression, found, sides.baseline(found, baseline, store))
    write_text(out, render(found, results))
    if junit_file:
        write_text(junit_file, junit(found, results))
    passed = not any(result.outcome == "failed" for result in results)
    return ReportResult(page=out, gates=tuple(results), passed=passed, measurement=found)
