"""Capture: the traced program of a checkpoint becomes an integer model. The only place of export that uses torch.

The program is walked once, operator by operator. A convolution, a linear layer, an addition or an average yields
a pending result; batch norms and activation functions are folded into it; the fake-quantization that follows
gives it its grid and makes it a node of the model.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.export import ExportedProgram

from export.assembly import Assembly
from export.call import Call
from export.converters import CONVERTERS, identity
from export.values import Constant, Ignored, Value
from msq.checkpoint import PROGRAM_FILE, Checkpoint
from msq.errors import BundleError, LoweringError
from msq.integer_model import IntegerModel


def capture(folder: Path, checkpoint: Checkpoint) -> IntegerModel:
    """Return the integer model of a checkpoint.

    Args:
        folder: the checkpoint's folder. checkpoint: its record, already verified.
    Raises:
        LoweringError: an operator has no integer form here, or an activation reaches a layer without being
            fake-quantized; the message names operator and module path.
        BundleError: another release line of torch wrote the program, or the codes are not its weights.
    """
    return _walk(_load(folder, checkpoint), Assembly(folder, checkpoint))


def run_program(folder: Path, checkpoint: Checkpoint, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the output of the trained program itself, float32 (n, classes), for images float32 (n, h, w, c).

    Raises:
        BundleError: another release line of torch wrote the program.
    """
    module = _load(folder, checkpoint).module()
    with torch.no_grad():
        output = module(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    (result,) = output if isinstance(output, tuple | list) else (output,)
    array: NDArray[np.float32] = result.numpy()
    return array


def _load(folder: Path, checkpoint: Checkpoint) -> ExportedProgram:
    path, wrote, here = folder / PROGRAM_FILE, checkpoint.versions.get("torch", "?"), str(torch.__version__)
    if wrote.split(".")[:2] != here.split(".")[:2]:
        raise BundleError(f"{path}: torch {wrote} wrote it, this is torch {here}", hint="install that torch, or train")
    return torch.export.load(path)


def _walk(program: ExportedProgram, assembly: Assembly) -> IntegerModel:
    signature = program.graph_signature
    state = {**program.state_dict, **program.constants}
    held = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    inputs, outputs = len(signature.user_inputs), len(signature.user_outputs)
    if inputs != 1 or outputs != 1:
        raise LoweringError(f"the model takes {inputs} inputs and gives {outputs} outputs; one of each can be lowered")
    values: dict[fx.Node, Value] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            (result,) = node.args[0]
            return assembly.finish(Call("output", node.name, "", {"self": values[result]}, ()).quantized())
        if node.op == "placeholder":
            name = held.get(node.name)
            values[node] = Constant(name, state[name].detach().numpy()) if name else assembly.image(_shape(node))
        else:
            values[node] = _convert(node, values, assembly)
    raise LoweringError("the program has no output")


def _convert(node: fx.Node, values: dict[fx.Node, Value], assembly: Assembly) -> Value:
    if not isinstance(node.meta.get("val"), torch.Tensor | tuple | list):
        return Ignored()
    is_aten = isinstance(node.target, torch._ops.OpOverload)
    operator = str(node.target) if is_aten else getattr(node.target, "__name__", str(node.target))
    converter = CONVERTERS.get(operator)
    if is_aten and converter is not identity and (folded := _of_parameters(node, values)) is not None:
        return folded
    if converter is None:
        raise LoweringError(
            f"{_module(node) or 'model'}: operator {operator} ({node.name}) cannot be lowered",
            hint=f"what can be: {', '.join(CONVERTERS)}",
        )
    return converter(assembly, Call(operator, node.name, _module(node), _arguments(node, values), _shape(node)))


def _of_parameters(node: fx.Node, values: dict[fx.Node, Value]) -> Constant | None:
    """Return the result of a call that takes parameters only, None of any other: it is computed once, here."""
    operands = {source: value for source in node.all_input_nodes if isinstance(value := values[source], Constant)}
    if not operands or len(operands) < len(node.all_input_nodes):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: torch.from_numpy(operands[source].array))
    result = node.target(*args, **kwargs)  # type: ignore[operator]
    return Constant(node.name, result.contiguous().numpy()) if isinstance(result, torch.Tensor) else None


def _arguments(node: fx.Node, values: dict[fx.Node, Value]) -> dict[str, Any]:
    """Return a call's arguments by the operator's own names, with its defaults."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return dict(zip(("self", "index"), (_value(argument, values) for argument in node.args), strict=False))
    named = {}
    for index, argument in enumerate(node.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        given = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name, default)
        named[argument.name] = _value(given, values)
    return named


def _value(argument: Any, values: dict[fx.Node, Value]) -> Any:
    if isinstance(argument, list | tuple):
        return [_value(item, values) for item in argument]
    return values[argument] if isinstance(argument, fx.Node) else argument


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's (first) result in torch's order, without the batch."""
    value = node.meta["val"]
    sizes = (value[0] if isinstance(value, tuple | list) else value).shape[1:]
    return tuple(int(size) for size in sizes)


def _module(node: fx.Node) -> str:
    """Return the path of the innermost module of the user's model that calls the operator; "" is the model itself."""
    paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path and not path.startswith("_")]
    return paths[-1] if paths else ""
