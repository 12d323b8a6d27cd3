"""A comparison finds what differs, and nothing where nothing does; what cannot be compared is told apart."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements import of_file
from scipy import stats

from msq.errors import UsageError
from msq.measurement import Measurement
from msq.provenance import Kind
from msq.recipe import Gates
from reports import compare_view, markdown
from reports.compare import Change, Comparison, compare
from reports.significance import in_turns, paired_shares, quantiles, shares
from reports.store import Store

LABELS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


def timed(local: Measurement, factor: float, seed: int = 1, created: str = "2025-11-22T14:05:31+00:00") -> Measurement:
    """Return the measurement with other samples, `factor` times as long."""
    draw = random.Random(seed)
    samples = tuple(factor * draw.lognormvariate(math.log(6e-4), 0.05) for _ in range(300))
    figures = {
        **local.figures,
        **{
            f"latency_p{percent}": local.figures["latency_p90"].model_copy(
                update={"value": float(np.quantile(samples, percent / 100))}
            )
            for percent in (50, 90)
        },
    }
    return local.model_copy(update={"figures": figures, "latency_seconds": samples, "created": created})


def on(measurement: Measurement, device: str) -> Measurement:
    return measurement.model_copy(update={"device": measurement.device.model_copy(update={"name": device})})


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Return a function that compares sides of measurements, written to a folder each."""

    def compared(*each: Sequence[Measurement], limits: Gates | None = None) -> Comparison:
        names = []
        for number, measurements in enumerate(each):
            folder = tmp_path / "ABC"[number]
            folder.mkdir(exist_ok=True)
            for index, measurement in enumerate(measurements):
                measurement.write(folder / f"{index}.json")
            names.append(str(folder))
        return compare(names, tmp_path / "store.db", limits)

    return compared


def changes(comparison: Comparison) -> dict[str, Change]:
    (pair,) = comparison.pairs
    return {change.figure: change for change in pair.changes}


@given(answers=LABELS)
def test_paired_shares_bound_the_difference_and_agree_with_the_binomial_test(answers):
    a, b = zip(*answers, strict=True)
    found = paired_shares(a, b)
    gained, lost = sum(y > x for x, y in answers), sum(x > y for x, y in answers)
    assert found.value == pytest.approx(sum(b) / len(b) - sum(a) / len(a))
    assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9
    assert found.p == pytest.approx(min(1.0, 2 * stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))
    back = paired_shares(b, a)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_two_proportions_give_newcombes_published_interval():
    # R. Newcombe, Interval estimation for the difference between independent proportions (1998), table II (a).
    found = shares((48 / 80, 80), (56 / 70, 70))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


@given(
    a=st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=60),
    b=st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=60),
    share=st.sampled_from([0.5, 0.9, 0.99]),
)
def test_ratios_of_quantiles_lie_within_what_the_samples_allow(a, b, share):
    found = quantiles(a, b, share)
    assert min(b) / max(a) <= found.low <= found.high <= max(b) / min(a)
    assert quantiles(a, b, share) == found
    same = quantiles(a, a, share)
    assert same.value == 1 and same.low <= 1 <= same.high


def test_the_bootstrap_is_scipys():
    draw = np.random.default_rng(3)
    a, b = draw.lognormal(0, 0.1, 201), draw.lognormal(0.1, 0.1, 151)
    found = quantiles(list(a), list(b), 0.5)
    ratio = lambda x, y, axis: np.median(y, axis) / np.median(x, axis)  # noqa: E731
    wanted = stats.bootstrap((a, b), ratio, method="percentile", n_resamples=9999, rng=draw).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=3e-3)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    draw = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        a, b = draw.lognormal(0, 0.1, 80), draw.lognormal(math.log(1.1), 0.1, 80)
        found = quantiles(list(a), list(b), 0.5)
        hits += found.low <= 1.1 <= found.high
    assert hits >= 180


@given(logs=st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_rounds_in_turns_are_compared_with_one_another(logs):
    a = [2.0] * len(logs)
    found = in_turns(a, [2 * math.exp(log) for log in logs])
    assert found.value == pytest.approx(math.exp(float(np.mean(logs))))
    assert found.low <= found.value * (1 + 1e-9) and found.value <= found.high * (1 + 1e-9)


def test_the_same_measurement_is_no_different_from_itself(run, local):
    found = changes(run([local], [local]))
    assert {change.verdict for change in found.values()} <= {"equal", "no clear difference"}
    assert found["latency_p90"].difference and found["top1"].difference


def test_what_is_slower_is_worse_and_what_is_as_slow_is_no_different(run, local):
    slower = changes(run([timed(local, 1)], [timed(local, 1.3, seed=2)]))["latency_p50"]
    assert slower.verdict == "worse" and slower.difference.low > 1.2 and slower.difference.p < 1e-6
    faster = changes(run([timed(local, 1.3)], [timed(local, 1, seed=2)]))["latency_p50"]
    assert faster.verdict == "better"
    # Another run of the same thing is never quite as fast.
    again = changes(run([timed(local, 1)], [timed(local, 1.02, seed=2)]))["latency_p50"]
    assert again.verdict == "no clear difference" and again.difference.p < 0.05


def test_runs_in_turns_are_compared_round_by_round_and_others_are_not(run, local):
    times = [f"2025-11-22T14:{minute:02d}:00+00:00" for minute in range(8)]
    # The machine gets slower, far more than B is.
    load = [1, 1.2, 1.5, 2.0]
    a = [timed(local, slow, 10 + index, times[2 * index]) for index, slow in enumerate(load)]
    b = [timed(local, 1.04 * slow, 20 + index, times[2 * index + 1]) for index, slow in enumerate(load)]
    found = changes(run(a, b))["latency_p50"]
    assert found.verdict == "worse" and "4 rounds in turns" in found.difference.test
    assert found.difference.high < 1.08
    later = [one.model_copy(update={"created": one.created.replace("T14", "T15")}) for one in b]
    assert "these two runs" in changes(run(a, later))["latency_p50"].difference.test


def test_answers_to_the_same_images_are_paired(run, local):
    worse = [
        said.model_copy(update={"predicted": (said.label + 1) % 10}) if said.index < 30 else said
        for said in local.predictions
    ]
    figure = local.figures["top1"].model_copy(update={"value": sum(s.label == s.predicted for s in worse) / len(worse)})
    other = local.model_copy(update={"predictions": tuple(worse), "figures": {**local.figures, "top1": figure}})
    found = changes(run([local], [other]))["top1"]
    assert found.verdict == "worse" and found.difference.test == "McNemar, exact, 3,000 images"
    # 0.9 points of 3,000 images: two independent shares could not tell.
    assert shares((found.base, 3000), (found.other, 3000)).high > 0


def test_the_difference_is_of_the_values_that_are_shown(run, local):
    halves = [local.model_copy(update={"predictions": local.predictions[start : start + 2000]}) for start in (0, 500)]
    times = [f"2025-11-22T14:{minute:02d}:00+00:00" for minute in range(6)]
    a = [timed(halves[0], 1 + index, index, times[2 * index]) for index in range(3)]
    b = [timed(halves[1], 1.5 + index, index, times[2 * index + 1]) for index in range(3)]
    for olds, news in ((a[-1:], b[-1:]), (a, b)):
        found = changes(run(olds, news))
        top1, p50 = found["top1"], found["latency_p50"]
        assert top1.other - top1.base == pytest.approx(top1.difference.value) and "1,500" in top1.difference.test
        assert p50.other / p50.base == pytest.approx(p50.difference.value, rel=1e-2)


def test_few_images_in_common_are_not_paired(run, local):
    halves = [local.model_copy(update={"predictions": local.predictions[start : start + 2000]}) for start in (0, 1500)]
    assert "Newcombe" in changes(run(halves[:1], halves[1:]))["top1"].difference.test


def test_kinds_are_never_compared(run, emulated, local):
    forged = emulated.model_copy(
        update={
            "figures": {
                **emulated.figures,
                "peak_memory": local.figures["peak_memory"].model_copy(update={"kind": Kind.EMULATED}),
            }
        }
    )
    (pair,) = run([local], [forged]).pairs
    assert not any(change.figure in ("top1", "peak_memory") for change in pair.changes)
    why = {apart.figure: apart.why for apart in pair.apart}
    assert "different kinds" in why["top1"] and "emulated" in why["top1"] and "different kinds" in why["peak_memory"]
    assert why["latency_p50"] == "only the base has it"


@pytest.mark.parametrize(
    ("changed", "figure", "said"),
    [
        ({"protocol": "tflite-compat"}, "latency_p50", "different protocols"),
        ({"threads": 4}, "latency_p50", "different threads"),
        ({"data": "0" * 64}, "top1", "different data"),
    ],
)
def test_what_was_measured_otherwise_is_told_apart(run, local, changed, figure, said):
    other = local
    if "threads" in changed:
        other = local.model_copy(update={"environment": local.environment.model_copy(update=changed)})
    elif "data" in changed:
        data = local.manifest.data.model_copy(update={"sha256": changed["data"]})
        other = local.model_copy(update={"manifest": local.manifest.model_copy(update={"data": data})})
    else:
        other = local.model_copy(update=changed)
    (pair,) = run([local], [other]).pairs
    assert said in {apart.figure: apart.why for apart in pair.apart}[figure]


def test_new_missing_and_newly_failing_are_listed_apart(run, local, emulated):
    broken = local.model_copy(update={"parity": local.parity.model_copy(update={"equal_to_host": False})})
    found = run([local, on(local, "gone")], [broken, on(local, "fresh")])
    assert [presence.what for presence in found.new] == ["fashion-resnet8 on fresh, onnxruntime"]
    assert [presence.what for presence in found.missing] == ["fashion-resnet8 on gone, onnxruntime"]
    (pair,) = found.pairs
    assert pair.newly_failing == ("Outputs on the device",) and pair.mended == ()
    back = run([broken], [local], limits=Gates(max_size_kb=1)).pairs[0]
    assert back.mended == ("Outputs on the device",) and back.newly_failing == ()


def test_two_things_are_compared_whatever_they_are_and_with_several_others(run, local):
    found = run([local], [on(local, "other")], [timed(local, 2)])
    assert [pair.what for pair in found.pairs] == [
        "fashion-resnet8 on local, onnxruntime → fashion-resnet8 on other, onnxruntime",
        "fashion-resnet8 on local, onnxruntime",
    ]


def test_a_bundle_is_compared_with_a_model_file_of_any_origin(run, local):
    found = changes(run([timed(local, 1)], [of_file(timed(local, 2))]))
    assert found["latency_p50"].verdict == "worse" and found["top1"].difference.test.startswith("McNemar")
    relabelled = tuple(said.model_copy(update={"label": 0}) for said in local.predictions)
    (pair,) = run([local], [of_file(local.model_copy(update={"predictions": relabelled}))]).pairs
    why = {apart.figure: apart.why for apart in pair.apart}
    assert why["top1"] == "different data" and why["average_bits"] == "only the base has it"


def test_sides_come_from_the_store_by_id_and_by_release(local, tmp_path):
    store = tmp_path / "store.db"
    with Store(store) as opened:
        first, second = opened.add(local, timed(local, 2))
        opened.mark([second], "2.0")
    found = changes(compare([first[:12], "2.0"], store))
    assert found["latency_p50"].verdict == "worse"
    for name, said in (("nonsense", "neither"), (str(tmp_path / "empty"), "neither")):
        with pytest.raises(UsageError, match=said):
            compare([first[:12], name], store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no measurements"):
        compare([str(tmp_path / "empty"), "2.0"], store)


def test_markdown_of_hostile_names_is_text(run, local):
    hostile = "<script>alert(1)</script>|[x](http://x)\n# head **b** _i_ www.x.org `c` ![i](u)"
    made = compare_view.as_markdown(run([on(local, hostile)], [on(local, "other")]))
    assert "<" not in made.replace("< 0.001", "") and "](" not in made and "http://" not in made and "\n# " not in made
    assert "www.x" not in made and "**" not in made and "`" not in made
    rows = [line for line in made.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {9}


def test_every_change_stands_in_the_markdown_with_its_kind(run, local):
    comparison = run([local], [timed(local, 2)])
    made = compare_view.as_markdown(comparison)
    for name, change in changes(comparison).items():
        (row,) = [line for line in made.splitlines() if line.startswith(f"| {markdown.text(name)} |")]
        assert change.verdict in row and row.split("|")[-2].strip()


def test_a_comparison_is_read_back_as_it_was_written(run, local, emulated, tmp_path):
    found = run([local], [emulated])
    found.write(tmp_path / "comparison.json")
    assert Comparison.read(tmp_path / "comparison.json") == found
