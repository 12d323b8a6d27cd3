"""JUnit XML of the gates, which build servers read: a suite a measurement, a case a gate."""

from collections.abc import Sequence
from xml.etree import ElementTree

from msq.measurement import Measurement
from reports import wording
from reports.gates import GateResult


def junit(measurement: Measurement, results: Sequence[GateResult]) -> str:
    """Return the document. A gate that is not judged is skipped."""
    outcomes = [result.outcome for result in results]
    counts = {"tests": len(results), "failures": outcomes.count("failed"), "skipped": outcomes.count("not judged")}
    title = f"{measurement.manifest.name} on {measurement.device.name}, {measurement.runtime}"
    attributes = {"name": wording.printable(title), **{name: str(count) for name, count in counts.items()}}
    attributes["timestamp"] = measurement.created
    suite = ElementTree.Element("testsuite", attributes)
    for result in results:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "gates", "name": result.name})
        if result.outcome != "passed":
            what = "failure" if result.outcome == "failed" else "skipped"
            ElementTree.SubElement(case, what, {"message": wording.printable(result.words)})
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
