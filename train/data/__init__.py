"""Training data by name: `sets/` has one file a dataset; the rest turns a dataset into batches.

A file of `sets/` offers `Options`, the schema of the recipe's `data` section, and `load(options) -> Dataset`.
"""

from typing import TYPE_CHECKING, Any, Protocol

from msq import plugins
from msq.artefact import Strict

if TYPE_CHECKING:
    from train.data.dataset import Dataset

_PACKAGE = f"{__name__}.sets"


class DataSet(Protocol):
    """What a file of `sets/` offers."""

    Options: type[Strict]

    def load(self, options: Any) -> "Dataset":
        """Return the dataset. Raises DataError."""
        ...


def names() -> list[str]:
    """Return the datasets there are."""
    return plugins.names(_PACKAGE)


def data_set(name: str) -> DataSet:
    """Return the dataset module of that name. Raises UsageError."""
    module: Any = plugins.load(_PACKAGE, name, "dataset")
    return module  # type: ignore[no-any-return]
