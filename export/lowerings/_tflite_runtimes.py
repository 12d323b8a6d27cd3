"""Which runtimes a .tflite file is good for, by the table in tflite_runtimes.toml."""

import functools
import tomllib
from importlib.resources import files

from export.lowerings._tflite_file import Operator, Type, schema

TABLE = "tflite_runtimes.toml"
_OPERATORS = {value: name for name, value in vars(Operator).items() if isinstance(value, int)}
_TYPES = {value: name for name, value in vars(Type).items() if isinstance(value, int)}


@functools.cache
def table() -> dict[str, dict[str, list[str]]]:
    """Return, by runtime and release ("LiteRT 2.3.0"), the types of weights that it runs of an operator."""
    read = tomllib.loads(files("export.lowerings").joinpath(TABLE).read_text(encoding="utf-8"))
    return {
        f"{name} {facts['release']}": {operator: types for operator, types in facts.items() if operator != "release"}
        for name, facts in read.items()
    }


def good_for(content: bytes) -> tuple[str, ...]:
    """Return the runtimes that run a .tflite file; custom operators are our delegate's, which all of them take."""
    used = _weights(content)
    return tuple(
        name
        for name, known in table().items()
        if all(kind in known[operator] for operator, kind in used if operator in known)
    )


def _weights(content: bytes) -> set[tuple[str, str]]:
    """Return the operators whose second input is a constant, with its type."""
    model = schema.Model.GetRootAsModel(content)
    graph, found = model.Subgraphs(0), set()
    for operator in (graph.Operators(index) for index in range(graph.OperatorsLength())):
        code = model.OperatorCodes(operator.OpcodeIndex())
        if operator.InputsLength() > 1 and (second := operator.Inputs(1)) >= 0:
            tensor = graph.Tensors(second)
            if model.Buffers(tensor.Buffer()).DataLength():
                found.add((_OPERATORS.get(code.BuiltinCode(), "CUSTOM"), _TYPES[tensor.Type()]))
    return found
