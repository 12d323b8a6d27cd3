"""How often a protocol repeats an inference, on a clock of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.protocol import PROTOCOLS, Protocol, sample, warm_up


class Clock:
    """Stands still but for inferences."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds, self.inferences = 100.0, seconds, 0

    def __call__(self) -> float:
        return self.now

    def infer(self) -> None:
        self.now += self.seconds
        self.inferences += 1


PROTOCOL = st.builds(
    Protocol,
    st.just("any"),
    st.integers(0, 30),
    st.floats(0, 3),
    st.integers(1, 300),
    st.floats(0, 60),
    st.floats(0.001, 100),
)


@given(PROTOCOL, st.floats(0.001, 20))
def test_it_stops_once_runs_and_seconds_are_enough_or_no_time_is_left(protocol: Protocol, seconds: float):
    clock = Clock(seconds)
    taken = sample(clock.infer, protocol, clock)
    assert len(taken) == clock.inferences >= 1
    assert taken == pytest.approx([seconds] * len(taken))
    enough = len(taken) >= protocol.least_runs and clock.now - 100 >= protocol.least_seconds
    assert enough or clock.now - 100 >= protocol.most_seconds
    # The last run was still wanted when it began.
    before = clock.now - 100 - seconds
    wanted = len(taken) - 1 < protocol.least_runs or before < protocol.least_seconds + 1e-9
    assert len(taken) == 1 or (wanted and before < protocol.most_seconds + 1e-9)


def test_the_protocols_repeat_as_their_sources_say():
    runs = {}
    for name, protocol in PROTOCOLS.items():
        clock = Clock(0.01)
        warm_up(clock.infer, protocol, clock)
        runs[name] = (clock.inferences, len(sample(clock.infer, protocol, clock)))
    # 10 ms an inference: benchmark_model warms up for half a second and times for one; MLPerf Mobile times a minute.
    assert runs["tflite-compat"] == (pytest.approx(50, abs=1), pytest.approx(100, abs=1))
    assert runs["mlperf-single-stream"][1] == pytest.approx(6000, abs=1)
    assert runs["quick"] == (10, 200)
