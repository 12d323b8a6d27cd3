"""Runs on an emulated board that counts: every model of a runtime, a few times, with a mark before and after each run.

    python3 counted.py RUNS RUNTIME MODEL:FEATURES …

RUNTIME is onnxruntime or litert; FEATURES is the input's shape without the batch, 16x16x64. Standard library, numpy and
the runtime only.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

WARM_UP = 3
"""The first runs make what later ones find made."""


def main(runs: int, runtime: str, models: list[str]) -> None:
    """Mark, run, mark, …: RUNS + 1 marks for every model."""
    for model in models:
        path, _, shape = model.rpartition(":")
        x = np.random.default_rng(0).normal(size=(1, *map(int, shape.split("x")))).astype(np.float32)
        run = {"onnxruntime": onnxruntime, "litert": litert}[runtime](path, x)
        for _ in range(WARM_UP):
            run()
        for _ in range(runs):
            os.sched_yield()
            run()
        os.sched_yield()


def onnxruntime(path: str, x: np.ndarray) -> Callable[[], object]:
    """Load a model for ONNX Runtime with the packed kernels, one thread."""
    import onnxruntime

    library = Path("libmsq_kernels.so").resolve()
    ctypes.CDLL(str(library)).msq_use_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def litert(path: str, x: np.ndarray) -> Callable[[], object]:
    """Load a model for LiteRT, one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    return lambda: interpreter.invoke()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
