"""In what state a device's processors are: what decides how fast they run. Standard library only: it runs there."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Conditions:
    """What Linux tells at one moment; empty where it tells nothing. By processor, in the order of their numbers."""

    governors: list[str]
    frequencies_khz: list[int]
    limits_khz: list[int]
    """The highest that each may have."""
    temperatures: dict[str, int]
    """Thermal zone → thousandths of a degree Celsius."""


def look(root: Path = Path("/sys")) -> Conditions:
    """Return the conditions now, as far as the files below `root` tell them."""
    policies = sorted(root.glob("devices/system/cpu/cpu[0-9]*/cpufreq"), key=lambda path: int(path.parent.name[3:]))
    zones = sorted(root.glob("class/thermal/thermal_zone*"))
    named = ((_text(zone / "type") or zone.name, _number(zone / "temp")) for zone in zones)
    return Conditions(
        governors=[text for policy in policies if (text := _text(policy / "scaling_governor"))],
        frequencies_khz=[value for policy in policies if (value := _number(policy / "scaling_cur_freq")) is not None],
        limits_khz=[value for policy in policies if (value := _number(policy / "scaling_max_freq")) is not None],
        temperatures={name: value for name, value in named if value is not None},
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # not there, or a sensor that does not answer
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None
