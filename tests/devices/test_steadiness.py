"""Conditions as Linux tells them, and what is made of them."""

from pathlib import Path

import numpy as np
import pytest

from devices.agent import Latency
from devices.conditions import Conditions, look
from devices.protocol import PROTOCOLS
from devices.steadiness import TRIES, doubts, steady_latency

UNKNOWN = Conditions([], [], [], {})


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_conditions_are_read_by_processor_number_and_zone(tmp_path: Path):
    for number in (0, 2, 10):
        folder = tmp_path / f"devices/system/cpu/cpu{number}/cpufreq"
        write(folder / "scaling_governor", "ondemand\n")
        write(folder / "scaling_cur_freq", f"{600_000 + number}\n")
        write(folder / "scaling_max_freq", "1500000\n")
    write(tmp_path / "class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "48312\n")
    write(tmp_path / "class/thermal/thermal_zone1/temp", "asleep\n")
    found = look(tmp_path)
    assert found == Conditions(["ondemand"] * 3, [600_000, 600_002, 600_010], [1_500_000] * 3, {"cpu-thermal": 48_312})
    assert look(tmp_path / "nothing") == UNKNOWN


def latency(seconds: list[float], frequency: int = 1_500_000, governor: str = "performance") -> Latency:
    return Latency(seconds, UNKNOWN, Conditions([governor], [frequency], [1_500_000], {}))


def test_a_steady_run_is_not_doubted_and_a_few_slow_ones_change_nothing():
    random = np.random.default_rng(0)
    seconds = random.normal(1e-3, 1e-5, 200)
    seconds[190:] *= 3
    assert doubts(latency(seconds.tolist())) == ()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (latency([1.0] * 40, 900_000), "processor 0 ran at 900 of 1500 MHz at the end"),
        (latency([1.0] * 150 + [1.2] * 50), "the last quarter of the runs was 20% slower than the first"),
    ],
)
def test_a_throttled_run_is(found: Latency, said: str):
    assert doubts(found) == (said,)


def test_a_processor_that_may_slow_down_by_itself_is_not_throttled():
    assert doubts(latency([1.0] * 40, 900_000, "ondemand")) == ()


class Tired:
    """Keeps its pace from the `until`th run on."""

    def __init__(self, until: int) -> None:
        self.runs, self.until = 0, until

    def latency(self, image, protocol) -> Latency:
        self.runs += 1
        return latency([1.0] * 150 + ([1.0] if self.runs >= self.until else [2.0]) * 50)


@pytest.mark.parametrize(("until", "runs", "is_doubted"), [(1, 1, False), (2, 2, False), (9, TRIES, True)])
def test_a_doubtful_run_is_repeated_and_told_when_that_does_not_help(until: int, runs: int, is_doubted: bool):
    agent = Tired(until)
    _, against = steady_latency(agent, np.zeros((1, 2, 2, 1), np.uint8), PROTOCOLS["quick"])  # type: ignore[arg-type]
    assert (agent.runs, bool(against)) == (runs, is_doubted)
