"""A .tflite file under construction, on the schema that ai-edge-litert ships. It knows nothing of integer models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import DeviceError

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    raise DeviceError(
        f"TFLite files cannot be written here: {error}", hint="pip install ai-edge-litert, which has their schema"
    ) from None

__all__ = ["File", "Operator", "Subgraph", "Type", "schema"]

Operator = schema.BuiltinOperator
Type = schema.TensorType

SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"
ALIGNMENT = 16
"""The schema demands it of buffers, but its generated Python code forgets it."""
LINE = 64
"""Packed weights lie at a multiple of it, so that kernels can read them where the file is mapped."""

VERSIONS: Mapping[int, int] = {
    Operator.ADD: 2,
    Operator.BATCH_MATMUL: 2,
    Operator.CONCATENATION: 2,
    Operator.CONV_2D: 3,
    Operator.DEPTHWISE_CONV_2D: 3,
    Operator.DEQUANTIZE: 2,
    Operator.FULLY_CONNECTED: 4,
    Operator.GATHER: 2,
    Operator.MAXIMUM: 2,
    Operator.MAX_POOL_2D: 2,
    Operator.MEAN: 2,
    Operator.MINIMUM: 2,
    Operator.MUL: 2,
    Operator.PAD: 2,
    Operator.PADV2: 2,
    Operator.SLICE: 2,
    Operator.TRANSPOSE: 2,
}
"""The first version of an operator that takes int8; what is not named is at version 1."""


class _Buffer(schema.BufferT):  # type: ignore[misc]
    alignment = ALIGNMENT

    def Pack(self, builder: Any) -> Any:
        if self.data is None:
            return super().Pack(builder)
        data = self.data.tobytes()
        builder.StartVector(1, len(data), self.alignment)
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """Holds equal vectors once: names, shapes, zero points, options."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, int] = {}
        self._vectors: dict[tuple[str, bytes], int] = {}

    def CreateString(self, s: str, encoding: str = "utf-8", errors: str = "strict") -> int:
        if s not in self._names:
            self._names[s] = super().CreateString(s, encoding, errors)
        return self._names[s]

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:
        key = x.dtype.str, x.tobytes()
        if key not in self._vectors:
            self._vectors[key] = super().CreateNumpyVector(x)
        return self._vectors[key]


class File:
    """The file: subgraphs, the first of which is the model, and the constants that they share."""

    def __init__(self, description: str) -> None:
        self._model = schema.ModelT()
        self._model.version, self._model.description = SCHEMA_VERSION, description
        self._model.subgraphs, self._model.signatureDefs, self._model.operatorCodes = [], [], []
        # By convention the first buffer is empty: tensors without data refer to it.
        self._model.buffers = [_Buffer()]
        self._places: dict[tuple[bytes, int], int] = {}
        self._codes: dict[int | str, int] = {}

    def subgraph(self, name: str) -> "Subgraph":
        """Append an empty subgraph."""
        subgraph = Subgraph(self, name)
        self._model.subgraphs.append(subgraph.table)
        return subgraph

    def buffer(self, data: NDArray[Any]) -> int:
        """Return the buffer that holds the array; equal contents are held once. Of uint8 are packed weights alone."""
        content, alignment = data.tobytes(), LINE if data.dtype == np.uint8 else ALIGNMENT
        if (content, alignment) not in self._places:
            buffer = _Buffer()
            buffer.data, buffer.alignment = np.frombuffer(content, np.uint8), alignment
            self._places[content, alignment] = len(self._model.buffers)
            self._model.buffers.append(buffer)
        return self._places[content, alignment]

    def code(self, operator: int | str) -> int:
        """Return the place of an operator, or of a custom one by its name, in the file's list of operators."""
        if operator not in self._codes:
            code = schema.OperatorCodeT()
            if isinstance(operator, str):
                code.customCode, code.builtinCode = operator, Operator.CUSTOM
            else:
                code.builtinCode = operator
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), VERSIONS.get(code.builtinCode, 1)
            self._codes[operator] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        return self._codes[operator]

    def sign(self, key: str, subgraph: "Subgraph") -> None:
        """Append a signature: the last subgraph, its inputs and outputs by their tensors' names."""
        definition = schema.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = key, len(self._model.subgraphs) - 1
        table = subgraph.table
        definition.inputs, definition.outputs = [
            [_named(table.tensors[index].name, index) for index in indices] for indices in (table.inputs, table.outputs)
        ]
        self._model.signatureDefs.append(definition)

    def content(self) -> bytes:
        """Return the file's bytes."""
        builder = _Builder()
        builder.Finish(self._model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())


class Subgraph:
    """Tensors and operators, in the order in which they run. Tensors are known by their index."""

    def __init__(self, file: File, name: str) -> None:
        self._file = file
        self.table = schema.SubGraphT()
        self.table.name, self.table.tensors, self.table.operators = name, [], []

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: int,
        *,
        scales: Sequence[float] = (),
        zero_point: int = 0,
        axis: int = 0,
        data: NDArray[Any] | None = None,
    ) -> int:
        """Append a tensor and return it.

        Args:
            scales: one, or one an index along `axis`; none where the tensor is not quantized. zero_point: of all.
            data: of a constant, as it is stored.
        """
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.hasRank = name, np.array(shape, np.int32), kind, True
        tensor.buffer = 0 if data is None else self._file.buffer(data)
        if len(scales):
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(scales, np.float32)
            tensor.quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
            tensor.quantization.quantizedDimension = axis
        self.table.tensors.append(tensor)
        return len(self.table.tensors) - 1

    def add(self, operator: int, inputs: Sequence[int], output: int, options: Any = None) -> int:
        """Append an operator and return its output. options: a table of the schema, such as Conv2DOptionsT."""
        table = self._add(operator, inputs, output)
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            table.builtinOptionsType, table.builtinOptions = getattr(schema.BuiltinOptions, name), options
        return output

    def add_custom(self, name: str, inputs: Sequence[int], output: int, options: bytes) -> int:
        """Append a custom operator and return its output. options: a FlexBuffer."""
        table = self._add(name, inputs, output)
        table.customOptions = np.frombuffer(options, np.uint8)
        return output

    def _add(self, operator: int | str, inputs: Sequence[int], output: int) -> Any:
        table = schema.OperatorT()
        table.opcodeIndex, table.inputs, table.outputs = self._file.code(operator), list(inputs), [output]
        self.table.operators.append(table)
        return table

    def close(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Say what goes in and comes out."""
        self.table.inputs, self.table.outputs = list(inputs), list(outputs)


def _named(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry
