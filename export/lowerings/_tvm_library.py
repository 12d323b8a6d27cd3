"""A Relax module becomes libraries of machine code, linked by zig: no compiler need be installed for any machine."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runtimes.tvm as runtime
from msq import plugins
from msq.errors import DeviceError, LoweringError, UsageError
from msq.integer_model import WEIGHTS_FILE, IntegerModel
from runtimes._kernels import KERNELS

try:
    import tvm

    from export.lowerings._tvm_graph import Graph
    from export.lowerings._tvm_nodes import Layers, module
except ImportError as error:
    raise DeviceError(f"TVM is not installed here: {error}", hint=runtime.INSTALL) from None

__all__ = ["DEPLOYED", "PACKAGES", "PROCESSORS", "Graph", "Processor", "compiled", "kernel_bytes", "write"]

EDGE = "aarch64"
"""The machine whose library counts: the others only serve the exporting host."""
DEPLOYED = (runtime.library_file(EDGE), WEIGHTS_FILE)
PACKAGES = ("apache-tvm", "apache-tvm-ffi", "ziglang")
USUAL = ("x86-64", "aarch64")
"""The processors of machines that none is named for: a bundle has a library for each of these machines."""
NODE_BYTES = 512
"""Of a library: a node's calls and constants in the virtual machine's code, which grow with the graph alone."""
GLIBC = "gnu.2.17"
"""The oldest C library that a model's library runs with: that of the kernels."""


@dataclass(frozen=True)
class Processor:
    """machine: as the system names it. cpu: the oldest model that the code runs on, as LLVM names it."""

    machine: str
    cpu: str


PROCESSORS: Mapping[str, Processor] = {
    # Version 2 has SSE4.1, which rounds in one instruction.
    "x86-64": Processor("x86_64", "x86-64-v2"),
    "x86-64-v3": Processor("x86_64", "x86-64-v3"),
    "aarch64": Processor("aarch64", "generic"),
    "cortex-a72": Processor("aarch64", "cortex-a72"),
    "cortex-a76": Processor("aarch64", "cortex-a76"),
    "cortex-a78ae": Processor("aarch64", "cortex-a78ae"),
}
"""What a library can be made for. It matters to what TVM compiles: the packed kernels choose their tier themselves."""


def write(model: IntegerModel, folder: Path, processors: Sequence[str], layers: Layers, *, kernels: bool) -> list[str]:
    """Write model-<machine>.so for every machine, and steps.json; return their names.

    Args:
        processors: keys of PROCESSORS, at most one a machine, in the place of USUAL.
        layers: how layers are said. kernels: link the packed kernels.
    Raises:
        UsageError: there is no such processor, or two are of one machine.
        LoweringError: the packed kernels or zig are missing.
    """
    chosen = _chosen(processors)
    made, steps = module(model, (folder / WEIGHTS_FILE).stat().st_size, layers)
    for processor in chosen:
        _write_library(made, processor, folder / runtime.library_file(processor.machine), kernels=kernels)
    (folder / runtime.STEPS_FILE).write_text(json.dumps(steps, indent=1) + "\n", encoding="utf-8")
    return [*(runtime.library_file(processor.machine) for processor in chosen), runtime.STEPS_FILE]


def _chosen(names: Sequence[str]) -> list[Processor]:
    found: dict[str, Processor] = {}
    for name in names:
        if name not in PROCESSORS:
            raise plugins.unknown(name, list(PROCESSORS), "processor")
        processor = PROCESSORS[name]
        if processor.machine in found:
            raise UsageError(
                f"{', '.join(names)}: two processors of the machine {processor.machine}",
                hint="a bundle has one library a machine; name the older processor",
            )
        found[processor.machine] = processor
    for processor in map(PROCESSORS.__getitem__, USUAL):
        found.setdefault(processor.machine, processor)
    return list(found.values())


def compiled(made: Any, processor: Processor) -> Any:
    """Return the executable of a module."""
    triple = f"{processor.machine}-linux-gnu"
    # Level 3 makes a third more code, which runs hardly faster.
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": processor.cpu, "opt-level": 2})
    # The virtual machine passes tensors that it made itself: nothing is left to check in a function.
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        return tvm.compile(made, target=target)


def _write_library(made: Any, processor: Processor, path: Path, *, kernels: bool) -> None:
    executable = compiled(made, processor)

    def linked(out: str, objects: Sequence[str], **_: Any) -> None:
        _link(objects, processor.machine, Path(out), kernels=kernels)

    path.unlink(missing_ok=True)  # and not written over, for a program may have it in use
    executable.export_library(str(path), fcompile=linked)


def kernel_bytes() -> int:
    """Return the size of a library that holds the packed kernels and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, runtime.library_file(EDGE))
        _link([], EDGE, out, kernels=True)
        return out.stat().st_size


def _link(objects: Sequence[str], machine: str, out: Path, *, kernels: bool) -> None:
    command = ["-m", "ziglang", "cc", "-target", f"{machine}-linux-{GLIBC}", "-shared", "-s", "-o", str(out), *objects]
    if kernels:
        archive = KERNELS / machine / "libmsq_tvm.a"
        if not archive.is_file():
            raise LoweringError(f"{archive}: no such file, which is linked into the model", hint="make kernels")
        # Layers are objects that are freed by code of the library, maybe after the host has let go of it.
        command += ["-Wl,-z,nodelete", "-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive"]
    done = subprocess.run([sys.executable, *command, "-lm", "-lpthread"], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        hint = "make kernels installs it" if "No module named ziglang" in done.stderr else ""
        raise LoweringError(f"{out.name}: zig does not link it: {said[-1]}", hint=hint)
