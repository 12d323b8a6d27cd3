import pytest
from hypothesis import given
from hypothesis import strategies as st

from msq.provenance import Figure, Kind
from reports import wording
from reports.classes import classes
from reports.figures import device_accuracy, recorded, times


def test_device_accuracy_is_that_of_the_predictions(emulated):
    right = sum(answer.label == answer.predicted for answer in emulated.predictions)
    found = device_accuracy(emulated)
    assert (found.value, found.n, found.kind) == (right / 3000, 3000, Kind.EMULATED)


def test_classes_count_every_prediction_once(emulated):
    found = classes(emulated)
    assert sum(map(sum, found.counts)) == len(emulated.predictions)
    assert sum(confusion.count for confusion in found.confusions) == sum(
        answer.label != answer.predicted for answer in emulated.predictions
    )


def test_times_of_an_emulator_are_no_figures(emulated, local):
    impostor = emulated.model_copy(update={"figures": local.figures, "latency_seconds": local.latency_seconds})
    assert list(times(local)) == ["p50", "p90"]
    assert times(impostor) == {}
    assert not any(found.unit == "seconds" for found in recorded(impostor).values())


@given(text=st.text())
def test_printable_text_holds_nothing_that_steers_a_terminal(text):
    shown = wording.printable(text)
    assert len(shown) == len(text) and (shown.isprintable() or shown == "")


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.91424, "fraction", "91.42 %"),
        (1023, "bytes", "1,023 bytes"),
        (52_344, "bytes", "51.1 KiB"),
        (3 << 20, "bytes", "3.00 MiB"),
        (0.00064912, "seconds", "0.649 ms"),
        (417, "seconds", "7 min"),
        (7260, "seconds", "2 h 01 min"),
        (2.6555, "bits", "2.66 bits"),
        (12.05, "×", "12.1×"),
        (1_234_567, "instructions", "1.23457e+06 instructions"),
        (88, "", "88"),
    ],
)
def test_figures_are_written_as_people_read_them(value, unit, said):
    assert wording.figure(Figure(value=value, unit=unit, kind=Kind.ARTEFACT)) == said
