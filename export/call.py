"""One operator call of the traced program, and what a converter may ask of its operands."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from export.values import Constant, Pending, Quantized
from msq.errors import LoweringError


@dataclass(frozen=True)
class Call:
    """One operator call: its name in the program, the path of the user's module that makes it, its arguments by name.

    shape is the result's in torch's order, without the batch.
    """

    operator: str
    name: str
    module: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]

    @property
    def map_shape(self) -> tuple[int, ...]:
        """The shape of a result that is a map: height, width, channels."""
        return (*self.shape[1:], self.shape[0])

    def refusal(self, reason: str, hint: str = "") -> LoweringError:
        """Return the error that names module path and operator."""
        return LoweringError(f"{self.module or 'model'}: {self.operator} ({self.name}): {reason}", hint=hint)

    def quantized(self, name: str = "self") -> Quantized:
        """Return an operand that must be an int8 tensor. Raises LoweringError."""
        value = self.padded(name)
        if any(value.padding):
            raise self.refusal("a padding stands before it", "only a convolution can take a padding in")
        return value

    def padded(self, name: str = "self") -> Quantized:
        """Return an operand that must be an int8 tensor, and may have zeros around it. Raises LoweringError."""
        value = self.arguments[name]
        if not isinstance(value, Quantized):
            raise self.refusal(
                "an activation reaches it without a fake-quantization",
                "what enters a layer, an addition or a pool, and the result, must be fake-quantized",
            )
        return value

    def pending(self, name: str = "self") -> Pending:
        """Return an operand that must be the result of a layer, not yet on a grid. Raises LoweringError."""
        value = self.arguments[name]
        if not isinstance(value, Pending):
            raise self.refusal(
                "it stands behind a fake-quantization, where no layer can take it in",
                "put the fake-quantization behind it",
            )
        return value

    def constant(self, name: str) -> Constant:
        """Return an operand that must be a parameter or a buffer. Raises LoweringError."""
        value = self.arguments[name]
        if not isinstance(value, Constant):
            raise self.refusal(f"its {name} is not a parameter of the model")
        return value

    def array(self, name: str) -> NDArray[Any] | None:
        """Return what an optional parameter holds. Raises LoweringError."""
        return None if self.arguments[name] is None else self.constant(name).array

    def pair(self, name: str) -> tuple[int, int]:
        """Return an argument that is one number for height and width, or two."""
        value = self.arguments[name]
        first, *rest = value if isinstance(value, tuple | list) else (value,)
        return (int(first), int(rest[0] if rest else first))
