"""Sharing out images among runs of an agent on a device, side by side, beside something else."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from devices import protocol
from devices.agent import Latency, Memory, Place
from devices.golden import Golden
from devices.transport import Transport
from msq.errors import DeviceError

First = TypeVar("First")


class Agent(Protocol):
    """A program on a prepared device, with a bundle beside it. Every method runs it once, in a process of its own.

    Images are uint8 (n, height, width, channels). All raise what the agent said, an MsqError in its own class, or
    DeviceError when it died without a word.
    """

    transport: Transport

    def golden(self) -> tuple[Place, Golden]:
        """Run the golden vectors, and return where that was and how they compare."""
        ...

    def latency(self, image: NDArray[np.uint8], protocol: protocol.Protocol) -> Latency:
        """Time inferences of one image."""
        ...

    def memory(self, image: NDArray[np.uint8]) -> Memory:
        """Load the model, run it on one image, and tell how long the first answer took and what memory is held."""
        ...

    def classify(self, number: int, images: NDArray[np.uint8], on_predictions: Callable[[list[int]], None]) -> None:
        """Classify images, and pass on the classes as they come, in order.

        Safe to call from several threads at once, with another number in each.
        """
        ...


def dispatch(
    agent: Agent,
    first: Callable[[], First],
    images: NDArray[np.uint8],
    runs: int,
    on_images: Callable[[int], None],
) -> tuple[First, list[int]]:
    """Have one thing done on a device, and beside it images classified, in `runs` processes at once.

    Args:
        agent: on its device. first: what is to be done, such as agent.golden.
        images: uint8, (n, height, width, channels).
        on_images: called with the number of images newly done, from several threads.
    Returns:
        What `first` found, and the classes in the order of the images.
    Raises:
        MsqError: as Agent; DeviceError as well when it ended without a class for every image.
    """
    shards = np.array_split(images, runs)
    found: list[list[int]] = [[] for _ in shards]

    def classify(number: int) -> None:
        def hear(predictions: list[int]) -> None:
            found[number] += predictions
            on_images(len(predictions))

        agent.classify(number, shards[number], hear)
        if len(found[number]) != len(shards[number]):
            raise DeviceError(f"{len(found[number])} of {len(shards[number])} images were classified")

    pool = ThreadPoolExecutor(runs)
    try:
        found_first = pool.submit(first)
        work: list[Future[Any]] = [pool.submit(classify, number) for number, shard in enumerate(shards) if len(shard)]
        for done in as_completed([found_first, *work]):
            done.result()
    except BaseException:
        # One failed, or Ctrl-C: the others are stopped rather than waited for.
        agent.transport.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return found_first.result(), [index for predictions in found for index in predictions]
