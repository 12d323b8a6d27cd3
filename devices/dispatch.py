"""Sharing out images among agents that run on a device side by side."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from devices.agent import Answer, Job
from devices.transport import Transport


class Agent(Protocol):
    """A program on a prepared device, with a bundle beside it."""

    transport: Transport

    def run(self, number: int, job: Job, images: NDArray[np.uint8], on_images: Callable[[int], None]) -> Answer:
        """Do a job over images, uint8 (n, height, width, channels), and wait for the answer.

        Safe to call from several threads at once.

        Args:
            number: another one in each thread. job: what to do.
            on_images: called with the number of images done so far.
        Raises:
            MsqError: what the agent said, in its own class; DeviceError when it died without a word.
        """
        ...


def dispatch(
    agent: Agent, job: Job, images: NDArray[np.uint8], count: int, on_images: Callable[[int], None]
) -> list[Answer]:
    """Share the images out among `count` runs of an agent at once; the first one also does what the job asks beside.

    Args:
        agent: on its device. job: for each run.
        images: uint8, (n, height, width, channels).
        on_images: called with the number of images newly done, from several threads.
    Returns:
        Answers in the order of the images.
    Raises:
        MsqError: as Agent.run.
    """
    shards = np.array_split(images, count)
    jobs = [job, *[replace(job, golden=False, latency_samples=0)] * (count - 1)]
    pool = ThreadPoolExecutor(count)
    try:
        work = [
            pool.submit(agent.run, number, part, shard, _news(on_images))
            for number, (part, shard) in enumerate(zip(jobs, shards, strict=True))
        ]
        for done in as_completed(work):
            done.result()
        return [done.result() for done in work]
    except BaseException:
        # One failed, or Ctrl-C: the others are stopped rather than waited for.
        agent.transport.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _news(on_images: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function that takes how many are done, and passes on how many that is more than before."""
    before = 0

    def hear(done: int) -> None:
        nonlocal before
        on_images(done - before)
        before = done

    return hear
