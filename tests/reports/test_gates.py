from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msq.checkpoint import Accuracy
from msq.measurement import Measurement
from msq.provenance import Kind
from msq.recipe import Gates
from reports.gates import GateResult, evaluate, verdict
from reports.junit import junit


def with_accuracy(measurement: Measurement, **correct: int) -> Measurement:
    accuracy = tuple(Accuracy(what=what, correct=count, n=10_000) for what, count in correct.items())
    return measurement.model_copy(update={"manifest": measurement.manifest.model_copy(update={"accuracy": accuracy})})


def with_size(measurement: Measurement, count: int) -> Measurement:
    sizes = measurement.manifest.sizes.model_copy(update={"model_bytes": count})
    return measurement.model_copy(update={"manifest": measurement.manifest.model_copy(update={"sizes": sizes})})


def differing(measurement: Measurement) -> Measurement:
    parity = measurement.parity.model_copy(update={"equal_to_host": False, "equal_to_oracle": False})
    return measurement.model_copy(update={"parity": parity})


def named(results: list[GateResult]) -> dict[str, GateResult]:
    return {result.name: result for result in results}


def test_a_good_measurement_passes_every_gate(emulated, gates):
    results = evaluate(gates, emulated)
    assert [result.name for result in results] == ["bit_exact", "min_top1", "max_drop_vs_float", "max_size_kb"]
    assert all(result.outcome == "passed" for result in results)
    assert verdict(results) == "Passes all 4 gates"


LIMITS = Gates(max_latency_p90_ms=1e6, max_peak_memory_kb=1e9)


def test_time_and_memory_are_judged_where_they_were_measured(local):
    kept = {"latency_p90": 0.0123, "peak_memory": 50 * 1024.0}
    figures = {name: local.figures["latency_p90"].model_copy(update={"value": value}) for name, value in kept.items()}
    measured = local.model_copy(update={"figures": figures})
    for limits, outcome in ((Gates(max_latency_p90_ms=12.4, max_peak_memory_kb=50), "passed"),
                            (Gates(max_latency_p90_ms=12.2, max_peak_memory_kb=49), "failed")):  # fmt: skip
        results = evaluate(limits, measured)[1:]
        assert [(result.name, result.outcome) for result in results] == [
            ("max_latency_p90_ms", outcome),
            ("max_peak_memory_kb", outcome),
        ]
    assert results[0].margin == "missed by 0.1 ms" and results[1].margin == "missed by 1.0 KiB"


def test_they_are_not_judged_on_an_emulator_even_if_someone_wrote_times_there(emulated, local):
    results = evaluate(LIMITS, emulated)
    assert [result.outcome for result in results] == ["passed", "not judged", "not judged"]
    assert verdict(results) == "Passes 1 of 3 gates, 2 not judged here"
    forged = local.figures["latency_p90"].model_copy(update={"kind": Kind.EMULATED})
    results = evaluate(LIMITS, emulated.model_copy(update={"figures": {"latency_p90": forged}}))
    assert results[1].outcome == "not judged"


def test_junit_has_a_case_a_gate(emulated, gates):
    limits = gates.model_copy(update={"min_top1": 0.99, "max_latency_p90_ms": 1.0})
    document = ElementTree.fromstring(junit(emulated, evaluate(limits, emulated)))
    counts = {name: document.attrib[name] for name in ("tests", "failures", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "skipped": "1"}
    cases = {case.attrib["name"]: [child.tag for child in case] for case in document}
    assert cases["min_top1"] == ["failure"] and cases["max_latency_p90_ms"] == ["skipped"]
    assert cases["bit_exact"] == []
    assert "99" in document.find("testcase/failure").attrib["message"]


def test_without_gates_bit_exactness_is_still_judged(emulated):
    assert [result.name for result in evaluate(None, emulated)] == ["bit_exact"]
    assert [result.name for result in evaluate(Gates(), emulated)] == ["bit_exact"]
    assert verdict(evaluate(None, differing(emulated))) == "Outputs differ from the host's"


def test_accuracy_gates_fail_where_the_device_differs_from_the_host(emulated, gates):
    results = named(evaluate(gates, differing(emulated)))
    assert results["bit_exact"].outcome == "failed"
    assert results["min_top1"].outcome == "failed" and "differ" in results["min_top1"].margin
    assert results["max_drop_vs_float"].outcome == "failed"
    assert results["max_size_kb"].outcome == "passed"
    assert verdict(list(results.values())) == "Fails 3 of 4 gates"


def test_accuracy_is_judged_on_the_full_test_set_and_not_on_the_sample(emulated):
    unlucky = emulated.model_copy(update={"predictions": emulated.predictions[:1]})
    assert evaluate(Gates(min_top1=0.9142), unlucky) == evaluate(Gates(min_top1=0.9142), emulated)


def test_what_is_deployed_is_judged_and_not_the_net_it_was_made_of(emulated):
    found = named(evaluate(Gates(min_top1=0.91), with_accuracy(emulated, float=9200, trained=9150, deployed=9099)))
    assert found["min_top1"].outcome == "failed"
    assert found["min_top1"].found == "90.99 %"


@given(float_correct=st.integers(0, 10_000), correct=st.integers(0, 10_000), limit=st.integers(0, 10_000))
def test_limits_are_compared_exactly_as_the_decimals_that_were_written(emulated, float_correct, correct, limit):
    gates = Gates(min_top1=limit / 10_000, max_drop_vs_float=limit / 10_000)
    results = named(evaluate(gates, with_accuracy(emulated, float=float_correct, trained=correct)))
    assert (results["min_top1"].outcome == "passed") == (correct >= limit)
    assert (results["max_drop_vs_float"].outcome == "passed") == (float_correct - correct <= limit)


def test_a_gate_met_to_the_point_passes_and_says_so(emulated):
    # 0.923 − 0.913 is more than 0.01 in binary floating point.
    results = evaluate(Gates(max_drop_vs_float=0.01), with_accuracy(emulated, float=9230, trained=9130))
    assert results[1].outcome == "passed" and results[1].margin == "exactly met"


def test_a_near_miss_is_never_reported_as_nothing(emulated):
    result = evaluate(Gates(min_top1=0.913001), with_accuracy(emulated, trained=9130))[1]
    assert result.outcome == "failed" and result.margin == "missed by less than 0.01 points"


@pytest.mark.parametrize(("count", "passed"), [(51_200, True), (51_201, False), (51_199, True)])
def test_the_size_gate_counts_kib_to_the_byte(emulated, count, passed):
    result = evaluate(Gates(max_size_kb=50), with_size(emulated, count))[1]
    assert (result.outcome == "passed") is passed
    if not passed:
        assert result.margin == "missed by 1 byte"


def test_an_accuracy_that_is_not_there_fails_its_gates(emulated):
    for measurement in (with_accuracy(emulated), with_accuracy(emulated, trained=9900)):
        drop = named(evaluate(Gates(max_drop_vs_float=1), measurement))["max_drop_vs_float"]
        assert drop.outcome == "failed" and drop.found == "not measured"


def test_more_accuracy_than_float_is_a_negative_drop(emulated):
    result = evaluate(Gates(max_drop_vs_float=0), with_accuracy(emulated, float=9100, trained=9120))[1]
    assert (
        result.outcome == "passed"
        and result.found == "0.20 points above float"
        and result.margin == "0.20 points to spare"
    )


def test_every_result_says_in_one_line_what_was_found_and_wanted(emulated, gates):
    for result in evaluate(gates, emulated):
        assert result.found in result.words and result.wanted in result.words and "\n" not in result.words
