"""What a process takes to give its first answer: time from its start, and the most memory that it held.

Ours is the whole of msq-run. A rival's process is Python, which its users need not have: its time and memory are told
whole, and once more from the import of the runtime on ("alone"), without Python and numpy.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msq.errors import DeviceError

WARM_UP = 2
"""Rounds in which files come into memory."""


def footprints(
    commands: Mapping[str, list[str]], image: NDArray[np.float32], folder: Path, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Return what each process took in each round: its "process_seconds" and "process_bytes", and "alone_…" of both.

    Args:
        commands: argv by name; of msq-run or of `rival`. They take turns, in an order of their own every round.
        image: (1, height, width, channels). folder: where it is written for them.
        rounds: that count.
    Raises:
        DeviceError: a process failed.
    """
    random, path = np.random.default_rng(0), folder / "image.npy"
    np.save(path, image)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in commands}
    for index in range(rounds + WARM_UP):
        for name in random.permutation(list(commands)):
            argv = [word.replace("{image}", str(path)) for word in commands[name]]
            began = time.perf_counter()
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - began
            if done.returncode:
                raise DeviceError(f"{argv[0]} failed: {(done.stderr.strip() or 'it said nothing').splitlines()[-1]}")
            said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            told = next(line for line in said if line.get("what") == "memory")
            peak = max(told["load_peak_bytes"], told["run_peak_bytes"])
            took = {"process_seconds": seconds, "process_bytes": peak}
            took["alone_seconds"] = told.get("alone_seconds", seconds)
            took["alone_bytes"] = peak - told.get("before_bytes", 0)
            for what, value in took.items() if index >= WARM_UP else ():
                found[name].setdefault(what, []).append(value)
    return found


def ours(program: Path, bundle: Path) -> list[str]:
    """Return the argv of msq-run for one image."""
    return [str(program), str(bundle), "--input", "{image}"]


def rival(runtime: str, model: Path) -> list[str]:
    """Return the argv of a Python process that does the same with "onnxruntime" or "litert"."""
    return [sys.executable, "-c", _RIVALS[runtime], str(model), "{image}"]


_FRAME = """
import json, os, sys, time
import numpy as np
def level(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
x = np.load(sys.argv[2])
before, began = level("VmRSS"), time.perf_counter()
{run}
alone, peak = time.perf_counter() - began, level("VmHWM")
told = {{"what": "memory", "load_peak_bytes": 0, "run_peak_bytes": peak, "before_bytes": before}}
told["alone_seconds"] = alone
print(json.dumps(told), flush=True)
os._exit(0)  # its answer was there: how long Python takes to end does not count
"""
_RIVALS = {
    "onnxruntime": _FRAME.format(
        run="""
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
"""
    ),
    "litert": _FRAME.format(
        run="""
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
interpreter.invoke()
interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
"""
    ),
}
