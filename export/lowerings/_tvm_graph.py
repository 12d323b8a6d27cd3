"""The Relax module of an integer model under construction: what is loaded once, and what runs for every image.

load(weights, threads) → state    weights: weights.bin as uint8 (bytes,), mapped; views into it, and layers on them
main(image, state) → output       one image, (1, height, width, channels)
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from export.lowerings import _tvm_operators as operators
from msq.integer_model import IntegerModel
from msq.nodes import Node, Tensor

Value = Any


class Graph:
    """The module.

    Args:
        model: saved, so that it is known where its arrays lie.
        weight_bytes: size of weights.bin.
    """

    def __init__(self, model: IntegerModel, weight_bytes: int) -> None:
        self.model, self.weight_bytes = model, weight_bytes
        self.steps: list[list[str]] = []
        """The tensors that each call of main makes, in order."""
        self._values: dict[str, Value] = {}
        self._builder = relax.BlockBuilder()
        self._weights = relax.Var("weights", relax.TensorType((weight_bytes,), "uint8"))
        self._threads = relax.Var("threads", tvm.ir.PrimType("int64"))
        self._state: dict[str, Value] = {}
        self._constants: dict[bytes, Value] = {}

    def module(self, load: Callable[[], None], run: Callable[[], None]) -> Any:
        """Return the module. `load` says what the state holds, `run` emits the nodes."""
        builder = self._builder
        with builder.function("load", [self._weights, self._threads], pure=False):
            load()
            builder.emit_func_output(relax.Tuple(list(self._state.values())))
        state = relax.Var("state", tvm.ir.TupleType([value.ty for value in self._state.values()]))
        image = relax.Var("image", _type(self.model.tensors[self.model.input]))
        self._values[self.model.input] = image
        with builder.function("main", [image, state]):
            with builder.dataflow():
                for index, name in enumerate(self._state):
                    self._state[name] = builder.emit(relax.TupleGetItem(state, index))
                run()
                output = builder.emit_output(self._values[self.model.output])
            builder.emit_func_output(output)
        return builder.get()

    def hold_copy(self, node: Node, name: str, shape: Sequence[int] | None = None) -> None:
        """Hold an array of weights.bin in the state, as "<node>.<name>".

        It is copied: a view of Relax has an offset, which compiled functions do not take.
        """
        stored = self.model.placed[f"{node.name}.{name}"]
        offset = self.constant([stored.offset], np.int64)
        self._state[f"{node.name}.{name}"] = self._builder.emit_te(
            operators.take, self._weights, offset, shape=tuple(shape or stored.shape), dtype=stored.dtype
        )

    def hold_weights(self) -> None:
        """Hold the whole of weights.bin, as it is mapped."""
        self._state["weights"] = self._weights

    def hold_session(self) -> None:
        """Hold what packed layers share, as "session"."""
        self._state["session"] = self._builder.emit(_call("msq_session", self._threads))

    def hold_layer(self, node: Node, words: NDArray[np.int32]) -> None:
        """Hold a packed layer, as "<node>.layer"; words are a layer_words of runtimes/kernels/tvm.c."""
        call = _call("msq_layer", self._state["session"], self._weights, relax.const(words, "int32"))
        self._state[f"{node.name}.layer"] = self._builder.emit(call)

    @property
    def weights(self) -> Value:
        """The whole of weights.bin, which the state holds."""
        return self._state["weights"]

    def held(self, node: Node, name: str) -> Value:
        """Return what the state holds of a node."""
        return self._state[f"{node.name}.{name}"]

    def value(self, tensor: str) -> Value:
        """Return an activation that is there."""
        return self._values[tensor]

    def constant(self, values: Sequence[Any], dtype: Any = np.float32) -> Value:
        """Return a small constant, which equal ones share."""
        array = np.asarray(values, dtype)
        key = array.dtype.char.encode() + array.tobytes()
        if key not in self._constants:
            self._constants[key] = relax.const(array, array.dtype.name)
        return self._constants[key]

    def expression(self, node: Node, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Append a tensor expression of the node's inputs and further arguments."""
        inputs = [self._values[name] for name in node.inputs]
        self._append([node.output], self._builder.emit_te(function, *inputs, *arguments, **options))

    def operator(self, node: Node, function: Callable[..., Value], *arguments: Any, **options: Any) -> None:
        """Append an operator of Relax."""
        inputs = [self._values[name] for name in node.inputs]
        self._append([node.output], self._builder.emit(function(*inputs, *arguments, **options)))

    def function(self, node: Node, function: Any, *arguments: Value) -> None:
        """Append a call of a TIR function that takes the node's input first, and its output last."""
        name = self._builder.add_func(function, node.kind)
        call = relax.call_tir(name, [self._values[node.inputs[0]], *arguments], _type(self.model.tensors[node.output]))
        self._append([node.output], self._builder.emit(call))

    def packed(self, layer: Node, makes: Sequence[str], others: Sequence[Value]) -> None:
        """Append a call of a packed layer, which makes the last one of the tensors."""
        inputs = [self.held(layer, "layer"), self._values[layer.inputs[0]], *others]
        out = _type(self.model.tensors[makes[-1]])
        self._append(makes, self._builder.emit(relax.call_dps_packed("msq_run", inputs, out)))

    def let(self, node: Node, value: Value) -> None:
        """Let the node's output be a value that is there already."""
        self._values[node.output] = value

    def _append(self, makes: Sequence[str], value: Value) -> None:
        self._values[makes[-1]] = value
        self.steps.append(list(makes))


def _call(function: str, *arguments: Value) -> Value:
    return relax.Call(relax.ExternFunc(function), list(arguments), ty_args=[relax.AnyType()])


def _type(tensor: Tensor) -> Any:
    return relax.TensorType((1, *tensor.shape), tensor.dtype)
