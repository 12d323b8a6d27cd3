"""Whether a processor kept its pace while inferences were timed: throttled runs are repeated, then doubted."""

from statistics import median

import numpy as np
from numpy.typing import NDArray

from devices.agent import Latency
from devices.dispatch import Agent
from devices.protocol import Protocol

TRIES = 3
MOST_SLOWER = 0.05
"""Of pace or frequency: MLPerf Mobile wants runs to repeat within 5 %."""
ENOUGH_SAMPLES = 40
"""Fewer do not tell a trend from noise."""


def steady_latency(agent: Agent, image: NDArray[np.uint8], protocol: Protocol) -> tuple[Latency, tuple[str, ...]]:
    """Time inferences until the processor keeps its pace; return the last try and what speaks against it."""
    for _ in range(TRIES):
        latency = agent.latency(image, protocol)
        against = doubts(latency)
        if not against:
            break
    return latency, against


def doubts(latency: Latency) -> tuple[str, ...]:
    """Say what speaks against times: a processor below its limit after them, a last quarter slower than the first."""
    found = []
    for number, (frequency, limit) in enumerate(
        zip(latency.after.frequencies_khz, latency.after.limits_khz, strict=False)
    ):
        if frequency < (1 - MOST_SLOWER) * limit and latency.after.governors[number : number + 1] == ["performance"]:
            found.append(f"processor {number} ran at {frequency // 1000} of {limit // 1000} MHz at the end")
    quarter = len(latency.seconds) // 4
    if len(latency.seconds) >= ENOUGH_SAMPLES:
        first, last = median(latency.seconds[:quarter]), median(latency.seconds[-quarter:])
        if last > (1 + MOST_SLOWER) * first:
            found.append(f"the last quarter of the runs was {last / first - 1:.0%} slower than the first")
    return tuple(found)
