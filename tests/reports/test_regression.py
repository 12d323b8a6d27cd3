import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msq.checkpoint import Accuracy
from msq.errors import GateError, UsageError
from msq.measurement import Measurement
from msq.recipe import Gates, Regression
from reports.gates import GateResult
from reports.regression import evaluate
from reports.report import Outputs, report
from reports.store import Store


def changed(
    measurement: Measurement, correct: int = 9142, size: int = 51_200, slower: float = 1.0, seed: int = 1
) -> Measurement:
    """Return the measurement with another accuracy on the whole test set, another file size, other times."""
    draw = random.Random(seed)
    samples = tuple(sorted(slower * draw.uniform(0.9e-3, 1.1e-3) for _ in range(200)))
    accuracy = (Accuracy(what="deployed", correct=correct, n=10_000),)
    values = {"host_top1": correct / 10_000, "model_bytes": size, "latency_p90": samples[179]}
    figures = {
        name: figure.model_copy(update={"value": values.get(name, figure.value)})
        for name, figure in measurement.figures.items()
    }
    return measurement.model_copy(
        update={
            "manifest": measurement.manifest.model_copy(update={"accuracy": accuracy}),
            "figures": figures,
            "latency_seconds": samples if measurement.latency_seconds else (),
        }
    )


def judged(base: Measurement | None, other: Measurement, **limits: float) -> GateResult:
    (result,) = evaluate(Regression(**limits), other, base)
    return result


@given(base=st.integers(0, 10_000), other=st.integers(0, 10_000), limit=st.integers(0, 10_000))
def test_accuracy_lost_is_compared_exactly_as_the_decimals_that_were_written(emulated, base, other, limit):
    result = judged(changed(emulated, base), changed(emulated, other), top1=limit / 10_000)
    assert (result.outcome == "passed") == (base - other <= limit)
    assert ("missed by" in result.margin) == (result.outcome == "failed")


@given(base=st.integers(1, 10**7), growth=st.integers(-500, 500))
def test_the_file_may_grow_by_the_share_that_was_written_to_the_byte(emulated, base, growth):
    limit = max(growth, 0) / 1000
    result = judged(changed(emulated, size=base), changed(emulated, size=base + base * growth // 1000), size=limit)
    assert result.outcome == "passed"
    assert judged(changed(emulated, size=base), changed(emulated, size=base + base * max(growth, 0) // 1000 + 1), size=limit).outcome == "failed"  # fmt: skip  # noqa: E501


def test_a_slower_one_fails_by_so_much_and_says_between_what(local):
    result = judged(changed(local), changed(local, slower=1.3, seed=2), latency=0.1)
    assert result.outcome == "failed" and "worse" in result.found
    assert result.margin.startswith("missed by ") and "(95 %: +" in result.margin
    assert judged(changed(local), changed(local, slower=1.3, seed=2), latency=0.4).outcome == "passed"
    assert judged(changed(local), changed(local, slower=0.7, seed=2), latency=0).outcome == "passed"


def test_what_the_samples_do_not_bear_out_is_not_judged(local):
    result = judged(changed(local), changed(local, slower=1.02, seed=2), latency=0)
    assert result.outcome == "not judged" and "no clear difference" in result.margin


def test_nothing_is_judged_without_a_release_or_across_kinds(local, emulated):
    assert "no earlier release" in judged(None, local, latency=0.1).margin
    host = emulated.model_copy(update={"figures": {**emulated.figures, "peak_memory": local.figures["peak_memory"]}})
    for result in (judged(local, host, latency=0.1), judged(emulated, emulated, peak_memory=0.1)):
        assert result.outcome == "not judged"
    as_emulated = host.figures["peak_memory"].model_copy(update={"kind": emulated.figures["top1"].kind})
    other = host.model_copy(update={"figures": {**host.figures, "peak_memory": as_emulated}})
    result = judged(local, other, peak_memory=9.0)
    assert result.outcome == "not judged" and "different kinds" in result.margin


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(measurement: Measurement) -> Path:
        measurement.write(tmp_path / "measurement.json")
        return tmp_path / "measurement.json"

    return written


def test_a_report_judges_by_the_stores_last_release_but_itself(local, write, tmp_path):
    store, gates = tmp_path / "store.db", Gates(max_regression=Regression(size=0.05))
    page = tmp_path / "page.html"
    now = changed(local, size=60_000)
    assert report(write(now), Outputs(page=page), gates, store=store).passed
    with Store(store) as opened:
        opened.add(changed(local, size=50_000), release="1.0")
    result = report(write(now), Outputs(page=page), gates, store=store)
    assert [one.outcome for one in result.document.gates] == ["passed", "failed"]
    with pytest.raises(GateError, match=r"Model file beside the release: 20\.00 % worse, wanted at most 5\.00 %"):
        result.raise_for_gates()
    with Store(store) as opened:
        opened.add(now, release="1.1")
    assert not report(write(now), Outputs(page=page), gates, store=store).passed
    assert report(write(now), Outputs(page=page), gates, baseline="1.1", store=store).passed


def test_a_baseline_of_something_else_is_refused(local, emulated, write, tmp_path):
    emulated.write(tmp_path / "other.json")
    gates = Gates(max_regression=Regression(size=0.05))
    with pytest.raises(UsageError, match="no measurement of fashion-resnet8 on local"):
        report(write(local), Outputs(page=tmp_path / "page.html"), gates, baseline=str(tmp_path / "other.json"))
