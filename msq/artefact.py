"""The base of every artefact schema: strict, versioned, written atomically, read with one clear error."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from msq.atomic import write_text
from msq.errors import BundleError


class Strict(BaseModel):
    """A part of an artefact: unknown keys are refused, fields do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class Artefact(Strict):
    """A JSON file that one stage writes and the next reads. Subclasses set SCHEMA and default schema_version to it."""

    SCHEMA: ClassVar[int] = 1
    schema_version: int = 1

    def write(self, path: Path) -> None:
        """Write the artefact as indented JSON, atomically."""
        write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and validate the artefact.

        Raises:
            BundleError: the file is missing, is not JSON, has a newer schema or does not fit the schema.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BundleError(f"{path}: no such file", hint="run the stage that makes it first") from None
        except (UnicodeDecodeError, IsADirectoryError):
            raise BundleError(f"{path}: not a JSON text file", hint="make the artefact again") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BundleError(f"{path}: {cls._explain(error, text)}", hint="make the artefact again") from None

    @classmethod
    def _explain(cls, error: ValidationError, text: str) -> str:
        version = _schema_version(text)
        if version is not None and version > cls.SCHEMA:
            return f"schema version {version} is newer than {cls.SCHEMA}, the newest this release reads"
        return first_problem(error)


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a validation in one line: where, and what."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def _schema_version(text: str) -> int | None:
    class Versioned(BaseModel):
        schema_version: int

    try:
        return Versioned.model_validate_json(text).schema_version
    except ValidationError:
        return None


def as_json(value: BaseModel) -> dict[str, Any]:
    """Return the artefact as plain JSON values."""
    dumped: dict[str, Any] = value.model_dump(mode="json")
    return dumped
