"""What each byte of the deployed files is: weights and parameters by layer, what aligns them, the graph, code."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from msq.bundle import Part, PartKind
from msq.integer_model import WEIGHTS_FILE, IntegerModel

CODE = (".so",)
WEIGHTS = ("packed", "weight")
"""The arrays of a layer that are its weights; all else that it has are its parameters."""


def audit(model: IntegerModel, folder: Path, deployed: Sequence[str]) -> tuple[Part, ...]:
    """Return the parts of the deployed files in `folder`; those of a file add up to its size."""
    return tuple(part for name in deployed for part in _parts(model, folder / name))


def _parts(model: IntegerModel, path: Path) -> Iterator[Part]:
    arrays = _placed(model) if path.name == WEIGHTS_FILE else _buffers(model, path) if path.suffix == ".tflite" else ()
    known: dict[tuple[PartKind, str], int] = defaultdict(int)
    for layer, array, size in arrays:
        known["weights" if array in WEIGHTS else "parameters", layer] += size
    for (what, layer), size in known.items():
        yield Part(file=path.name, what=what, layer=layer, bytes=size)
    rest = path.stat().st_size - sum(known.values())
    remains: PartKind = "alignment" if path.name == WEIGHTS_FILE else "code" if path.suffix in CODE else "graph"
    yield Part(file=path.name, what=remains, bytes=rest)


Array = tuple[str, str, int]
"""Layer or other node, name, and bytes."""


def _placed(model: IntegerModel) -> Iterator[Array]:
    for name, stored in model.placed.items():
        node, _, array = name.rpartition(".")
        yield node, array, stored.size


def _buffers(model: IntegerModel, path: Path) -> Iterator[Array]:
    """Yield the constants of a .tflite file's operators, each once, as the first operator's that takes it."""
    from export.lowerings._tflite_file import schema

    file = schema.Model.GetRootAsModel(path.read_bytes())
    makers = {node.output: node.name for node in model.nodes}
    graph, seen = file.Subgraphs(0), set()
    for operator in (graph.Operators(number) for number in range(graph.OperatorsLength())):
        # Where a node takes several operators, what lies between them is named after its output.
        made = graph.Tensors(operator.Outputs(0)).Name().decode().partition("/")[0]
        for tensor in (graph.Tensors(index) for index in operator.InputsAsNumpy() if index >= 0):
            buffer = tensor.Buffer()
            if buffer not in seen and (size := file.Buffers(buffer).DataLength()):
                seen.add(buffer)
                yield makers.get(made, ""), tensor.Name().decode().rpartition(".")[2], size
