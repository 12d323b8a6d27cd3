"""What a training step of every method costs: trained numbers, time, memory. make bench-training.

All methods take turns in one process, step by step, so that whatever slows the machine slows all of them. Memory is
what the tensors of a step take at their peak, with those that stay between steps, in a process that runs one method
alone; on a CPU the peak of that process stands beside it, which holds the program too and the holes of its heap.
"""

import copy
import itertools
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from benchmarks.result import Bar, at_least, at_most, finish
from msq import plugins
from msq.checkpoint import InputSpec
from msq.cli import run
from msq.recipe import Activations, Budget
from train import models
from train.allocator import keep_freed_memory
from train.methods.bsq import Bsq
from train.methods.csq import Csq
from train.methods.msq import Msq
from train.methods.msq import Options as MsqOptions
from train.quantize import QuantizedModel

METHODS = ("float", "lsq", "dorefa", "msq", "bsq", "csq")
WORKLOADS = {"resnet20": (32, 10, 128), "resnet50": (224, 1000, 8)}
"""Side of the images, classes and batch of each model. A GPU takes larger batches: --batch."""

IMAGES, MEMORY = 50_000, 4 << 30
"""Of an epoch, by which a schedule's time is told, and the bytes in which the largest batch must fit."""

Step = Callable[[], None]


@dataclass(frozen=True)
class Ready:
    """A method ready to train: one step, how many numbers it trains, and, of MSQ, one look at β and the curvature.

    standing: the bytes of the tensors that stay between two steps. epochs: of the method's own schedule, by default.
    """

    step: Step
    counts: dict[str, int]
    standing: Callable[[], int]
    epochs: int
    look: Step | None = None


def main(
    model: Annotated[str, typer.Option(help="resnet20, resnet50 or both, comma-separated")] = "resnet20,resnet50",
    steps: int = 20,
    batch: Annotated[int, typer.Option(help="images a step; 0: each model's own")] = 0,
    precision: Annotated[str, typer.Option(help="32-true or bf16-mixed")] = "32-true",
    out: Path = Path("build/bench"),
) -> None:
    """Measure every method on every model and judge the bars."""
    figures: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for name in model.split(","):
        memory = {method: _alone(name, method, batch, precision) for method in METHODS}
        prepared = {method: prepare(name, method, batch, precision) for method in METHODS}
        times = interleaved({method: ready.step for method, ready in prepared.items()}, steps)
        for method, ready in prepared.items():
            seconds = {"step_seconds": times[method], "look_seconds": _look_seconds(ready)}
            shares = {"time_shares": time_shares(ready.step)}
            figure = {"model": name, "method": method, **memory[method], **seconds, **ready.counts, **shares}
            figures.append(figure | _consequences(figure, ready.epochs, batch or WORKLOADS[name][2]))
        _print(name, figures)
        bars += _bars(name, {figure["method"]: figure for figure in figures if figure["model"] == name})
    settings = {"models": model, "steps": steps, "batch": batch, "precision": precision}
    raise SystemExit(finish("training", settings, figures, bars, out))


def prepare(name: str, method: str, batch: int, precision: str) -> Ready:
    """Return a method ready to train on random images."""
    keep_freed_memory()
    torch.manual_seed(0)
    side, classes, own = WORKLOADS[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec = InputSpec(height=side, width=side, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    architecture = models.model(name)
    net: nn.Module = architecture.build(architecture.Options(), spec, classes)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch or own, 3, side, side).to(device, memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (batch or own,), device=device)
    before: Step = lambda: None  # noqa: E731
    after: Step = lambda: None  # noqa: E731
    look: Step | None = None
    epochs = 1
    if method != "float":
        plugin = plugins.load("train.methods", method, "method")
        options = plugin.Options()
        net = plugin.wrap(net, options, Activations(), spec)
        assert isinstance(net, QuantizedModel)
        with torch.no_grad(), net.activations("calibrate"):
            net(images.cpu()[:8])
        before, after = _hooks(method, net, options)
        epochs = sum(phase.epochs for phase in plugin.phases(copy.deepcopy(net), options, Budget(average_bits=3), 0))
        if method == "msq":
            look = _look(net, options, images, labels)
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, nesterov=True)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits = net(images)
        loss = cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        before()
        optimizer.step()
        after()
        if device == "cuda":
            torch.cuda.synchronize()

    def standing() -> int:
        parameters = list(net.parameters())
        grads = [p.grad for p in parameters if p.grad is not None]
        momenta = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        return sum(t.nbytes for t in (*parameters, *net.buffers(), *grads, *momenta, images, labels))

    return Ready(step, _counts(net), standing, epochs, look)


def time_shares(step: Step, steps: int = 3) -> dict[str, float]:
    """Return which operators take a step's time: the share of each of the ten longest, by PyTorch's profiler."""
    gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            step()
    spent = {one.key: one.self_device_time_total if gpu else one.self_cpu_time_total for one in found.key_averages()}
    whole = sum(spent.values())
    longest = sorted(spent, key=lambda name: -spent[name])[:10]
    return {name: round(spent[name] / whole, 4) for name in longest}


def _print(model: str, figures: list[dict[str, Any]]) -> None:
    table = Table(
        "method",
        "ms a step",
        "tensors MiB",
        "process MiB",
        "batch in 4 GiB",
        "min to target",
        "trained for weights",
        "where the time goes",
        title=model,
    )
    for figure in figures:
        if figure["model"] == model:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in list(figure["time_shares"].items())[:5])
            milliseconds = 1000 * statistics.median(figure["step_seconds"])
            numbers = (
                f"{milliseconds:.0f}",
                f"{figure['tensor_bytes'] / 2**20:.0f}",
                f"{figure['peak_bytes'] / 2**20:.0f}",
                f"{figure['largest_batch']:,}",
                f"{figure['seconds_to_target'] / 60:.1f}" if figure["method"] != "float" else "",
                f"{figure['trained_for_weights']:,}",
            )
            table.add_row(figure["method"], *numbers, shares)
    Console().print(table)


def _look(net: QuantizedModel, options: Any, images: Tensor, labels: Tensor) -> Step:
    """Return one look of MSQ's, as its callback takes it, which drops no bit."""
    pruner = Msq(net, options, Budget(average_bits=3), 1, 0).pruner
    pruner.set_events(1_000_000)
    part = slice(0, options.hessian_batch)

    def look() -> None:
        net.eval()
        pruner.prune(lambda: cross_entropy(net(images[part]).float(), labels[part]), torch.Generator().manual_seed(0))
        net.train()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return look


def _look_seconds(ready: Ready) -> float | None:
    """Return the median seconds of three looks, after one that compiles and allocates."""
    if ready.look is None:
        return None
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        ready.look()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _hooks(method: str, net: QuantizedModel, options: Any) -> tuple[Step, Step]:
    """Return what a method does before and after the optimizer's step, as its callback does."""
    budget = Budget(average_bits=3)
    if method in ("msq", "dorefa"):
        return Msq(net, options, budget, 1, 0).pruner.add_penalty_gradient, lambda: None
    if method == "bsq":
        bsq = Bsq(net, options, budget)
        return bsq.add_gradient, bsq.clamp
    if method == "csq":
        return Csq(net, options, budget).add_gradient, lambda: None
    return lambda: None, lambda: None


def _counts(net: nn.Module) -> dict[str, int]:
    if not isinstance(net, QuantizedModel):
        weights = sum(p.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear) for p in [m.weight])
        return {"weights": weights, "trained_for_weights": weights}
    trained = sum(part.numel() for site in net.sites for part in site.trained)
    return {"weights": net.weights, "trained_for_weights": trained}


def interleaved(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every step, the methods in turn, after two rounds that compile and allocate."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if index >= 2:
                times[name].append(time.perf_counter() - began)
    return times


def _alone(name: str, method: str, batch: int, precision: str) -> dict[str, int]:
    """Return what a process that trains by one method only takes at its peak: all of it, and its tensors."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.apply(_peak, (name, method, batch, precision))
        # Left to end by itself, for killed it could not give back torch's semaphores.
        pool.close()
        pool.join()
    return found


def _peak(name: str, method: str, batch: int, precision: str) -> dict[str, int]:
    ready = prepare(name, method, batch, precision)
    for _ in range(3):
        ready.step()
    standing = ready.standing()
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        return {"peak_bytes": peak, "tensor_bytes": peak, "standing_bytes": standing}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tensors = standing + passing_bytes(ready.step)
    return {"peak_bytes": peak, "tensor_bytes": tensors, "standing_bytes": standing}


def _consequences(figure: dict[str, Any], epochs: int, batch: int) -> dict[str, Any]:
    """Return what follows for a user: the seconds of the method's own schedule, and the largest batch that fits."""
    looks = (figure["look_seconds"] or 0.0) / MsqOptions().interval
    step = statistics.median(figure["step_seconds"]) + looks
    an_image = (figure["tensor_bytes"] - figure["standing_bytes"]) / batch
    return {
        "schedule_epochs": epochs,
        "seconds_to_target": epochs * IMAGES / batch * step,
        "largest_batch": int(max(0.0, MEMORY - figure["standing_bytes"]) / an_image),
    }


def passing_bytes(step: Step) -> int:
    """Return the most bytes that a step holds beyond those it began with, by PyTorch's every allocation on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes: list[int] = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes, initial=0))


def _bars(name: str, found: dict[str, dict[str, Any]]) -> list[Bar]:
    gpu = torch.cuda.is_available()

    def ratio(one: str, other: str) -> float:
        """Return the median over rounds of the ratio of two methods' steps in the same round."""
        pairs = zip(found[one]["step_seconds"], found[other]["step_seconds"], strict=True)
        return float(statistics.median(left / right for left, right in pairs))

    planes = found["bsq"]["trained_for_weights"] / found["msq"]["trained_for_weights"]
    bars = [
        at_least(
            f"{name}: BSQ's trained numbers over MSQ's", planes, 8, "two sets of 7 planes; the paper counts one, of 8"
        ),
        at_most(f"{name}: MSQ step / LSQ step", ratio("msq", "lsq"), 1.05 if gpu else 1.10),
        at_most(
            f"{name}: MSQ memory / LSQ memory",
            found["msq"]["tensor_bytes"] / found["lsq"]["tensor_bytes"],
            1.05,
            f"tensors; the processes: {found['msq']['peak_bytes'] / found['lsq']['peak_bytes']:.2f}",
        ),
        at_least(f"{name}: BSQ step / MSQ step", ratio("bsq", "msq"), 5.3, "" if gpu else "asked of a GPU"),
        at_least(f"{name}: CSQ step / MSQ step", ratio("csq", "msq"), 7.1, "" if gpu else "asked of a GPU"),
    ]
    interval = MsqOptions().interval
    look = found["msq"]["look_seconds"] / interval / statistics.median(found["msq"]["step_seconds"])
    return [
        *bars,
        at_most(f"{name}: MSQ step / float step", ratio("msq", "float"), 1.15),
        at_most(f"{name}: MSQ's looks / steps", look, 0.05, f"one look every {interval} steps"),
    ]


if __name__ == "__main__":
    run(lambda: typer.run(main))
