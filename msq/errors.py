"""The one exception hierarchy: every error a user can cause, with what to do next and an exit code."""


class MsqError(Exception):
    """Base of every error a user can cause.

    `str(error)` says in one line what is wrong and where; `hint` says how to mend it; the command line
    prints both and exits with `exit_code` (docs/exit-codes.md).
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(MsqError):
    """A name or argument that the command does not know: a device, a runtime, a method, a model."""

    exit_code = 2


class RecipeError(MsqError):
    """A recipe that cannot be read or does not fit its schema; the message names file and line."""

    exit_code = 3


class BudgetError(MsqError):
    """A bit budget that the model and the representation cannot meet."""

    exit_code = 4


class DataError(MsqError):
    """A dataset that is missing, cannot be fetched, or holds something unreadable."""

    exit_code = 5


class TrainingError(MsqError):
    """Training that cannot start, cannot resume or went wrong."""

    exit_code = 6


class LoweringError(MsqError):
    """An operator, or a width, that export cannot lower; the message names the module path."""

    exit_code = 7


class BundleError(MsqError):
    """A checkpoint, bundle or other artefact that is missing, truncated, altered or of a newer schema."""

    exit_code = 8


class ParityError(MsqError):
    """Outputs that differ from the oracle's by more than the runtime is allowed."""

    exit_code = 9


class DeviceError(MsqError):
    """A device that cannot be set up, reached, or that failed while running."""

    exit_code = 10


class StorageError(MsqError):
    """No space, or no permission, to write a file."""

    exit_code = 11


class GateError(MsqError):
    """A release gate of the recipe that the measurement does not meet."""

    exit_code = 12


def error_of(exit_code: object, otherwise: type[MsqError]) -> type[MsqError]:
    """Return the class of errors with which a program ended that exited so."""
    return next((cls for cls in MsqError.__subclasses__() if cls.exit_code == exit_code), otherwise)
