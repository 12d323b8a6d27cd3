"""How often an inference is repeated before and while it is timed. Standard library only: it runs on the device.

Sources: tensorflow/lite/tools/benchmark (defaults of benchmark_model); MLPerf Mobile's rules, single stream.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """Warm-up, then timed runs: so many at least, for so many seconds at least, but none begins after most_seconds."""

    name: str
    warm_up_runs: int
    warm_up_seconds: float
    least_runs: int
    least_seconds: float
    most_seconds: float


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("quick", 10, 0.0, 200, 0.0, 60.0),
        Protocol("tflite-compat", 1, 0.5, 50, 1.0, 150.0),
        Protocol("mlperf-single-stream", 10, 0.0, 1024, 60.0, 600.0),
    )
}


Clock = Callable[[], float]
"""In seconds."""


def warm_up(infer: Callable[[], object], protocol: Protocol, clock: Clock = time.perf_counter) -> None:
    """Infer as often and as long as a protocol asks before anything is timed."""
    _repeat(infer, protocol.warm_up_runs, protocol.warm_up_seconds, protocol.most_seconds, clock)


def sample(infer: Callable[[], object], protocol: Protocol, clock: Clock = time.perf_counter) -> list[float]:
    """Return the seconds that each timed inference took, in order; at least one."""
    return _repeat(infer, max(1, protocol.least_runs), protocol.least_seconds, protocol.most_seconds, clock)


def _repeat(infer: Callable[[], object], runs: int, seconds: float, most_seconds: float, clock: Clock) -> list[float]:
    taken: list[float] = []
    began = now = clock()
    while (len(taken) < runs or now - began < seconds) and (not taken or now - began < most_seconds):
        start = clock()
        infer()
        now = clock()
        taken.append(now - start)
    return taken
