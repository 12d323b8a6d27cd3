"""Boards of the user's own, by name: devices.toml of the project, then that of the user.

[pi]
host = "pi@192.168.1.20"
profile = "raspberrypi4"

[phone]
serial = "R58M123ABC"
profile = "android"
"""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from msq.artefact import Strict, first_problem
from msq.atomic import write_text
from msq.errors import UsageError

FILE = "devices.toml"
_NAME = r"^[a-z0-9][a-z0-9-]*$"


class Own(Strict):
    """Where a board is, and which it is."""

    host: str | None = Field(None, min_length=1)
    """"[user@]host[:port]", over SSH; host may be one of ~/.ssh/config."""
    serial: str | None = Field(None, min_length=1)
    """Of a phone, over ADB; or "host:port"."""
    profile: str | None = None
    """Name of its profile; without one, nothing is known of the board but what it says itself."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.host is None) == (self.serial is None):
            raise ValueError("give either host or serial")
        return self

    @property
    def transport(self) -> Literal["ssh", "adb"]:
        """The transport that leads to it."""
        return "ssh" if self.host else "adb"

    @property
    def address(self) -> str:
        """Where it is, in its transport's words."""
        return self.host or self.serial or ""


_TABLES = TypeAdapter(dict[Annotated[str, StringConstraints(pattern=_NAME)], Own])


def files() -> list[Path]:
    """Return where devices are named, the first that names one counts: the project's file, the user's."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return [Path(FILE), Path(config, "msq", FILE)]


def own_devices() -> dict[str, Own]:
    """Return the user's boards by name. Raises UsageError: a file is broken; it is named."""
    found: dict[str, Own] = {}
    for file in files():
        found = _read(file) | found
    return found


def add(name: str, device: Own, file: Path) -> None:
    """Add a board to a file, which is made when missing.

    Raises:
        UsageError: the name is no name, or taken in that file; or the file is broken.
        StorageError: the file cannot be written.
    """
    if not re.match(_NAME, name):
        raise UsageError(f"{name!r} cannot name a device", hint="use small letters, digits and -")
    if name in _read(file):
        raise UsageError(f"{file}: names a device {name!r} already", hint=f"edit {file}")
    before = file.read_text(encoding="utf-8").rstrip("\n") + "\n\n" if file.exists() else ""
    # A string of JSON is one of TOML.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in device if value is not None]
    write_text(file, before + "\n".join([f"[{name}]", *lines]) + "\n")


def _read(file: Path) -> dict[str, Own]:
    hint = 'a board is [name], host = "user@host" or serial = "…", profile = "…"'
    try:
        return _TABLES.validate_python(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: not TOML: {error}", hint=hint) from None
    except ValidationError as error:
        raise UsageError(f"{file}: {first_problem(error)}", hint=hint) from None
