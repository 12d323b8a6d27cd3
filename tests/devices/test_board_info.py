"""What a board says of itself, read from a folder that plays its /proc and /sys."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from devices import transport as transports
from devices.board_info import board_info
from devices.profile import profile
from devices.transport import Transport


@pytest.fixture
def here() -> Iterator[Transport]:
    """This machine as a device."""
    with closing(transports.transport("local")) as transport:
        transport.prepare(profile("local"), None)
        yield transport


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A board with two processors and nothing else."""
    folder = tmp_path / "the board's root"
    write(folder, "proc/cpuinfo", "processor\t: 0\nmodel\t: x\nprocessor\t: 1")
    write(folder, "proc/meminfo", "MemTotal:        8000512 kB\nMemFree:  5 kB\nMemAvailable:    4194304 kB")
    return folder


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(f"{text}\n")


def said(here: Transport, root: Path) -> dict[str, str]:
    return board_info(here, python=False, root=str(root))


def test_memory_governor_clock_and_temperatures_are_told(here: Transport, root: Path):
    for cpu, clock in enumerate((600_000, 1_800_000)):
        write(root, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "schedutil")
        write(root, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", str(clock))
    for zone, (kind, milli) in enumerate((("cpu-thermal", 48_312), ("gpu-thermal", 46_950))):
        write(root, f"sys/class/thermal/thermal_zone{zone}/type", kind)
        write(root, f"sys/class/thermal/thermal_zone{zone}/temp", str(milli))
    found = said(here, root)
    assert found["cores"] == "2"
    assert found["memory"] == "7813 MiB, 4096 MiB free"
    assert found["governor"] == "schedutil"
    assert found["clock"] == "600, 1800 MHz"
    assert found["temperature"] == "cpu-thermal 48.3 °C, gpu-thermal 47.0 °C"


def test_power_is_told_by_the_sensors_of_a_jetson(here: Transport, root: Path):
    chip = "sys/class/hwmon/hwmon3"
    write(root, f"{chip}/name", "ina3221")
    for number, (rail, millivolt, milliampere) in enumerate((("VDD_IN", 5000, 1200), ("VDD_CPU", 5008, 250)), 1):
        write(root, f"{chip}/in{number}_label", rail)
        write(root, f"{chip}/in{number}_input", str(millivolt))
        write(root, f"{chip}/curr{number}_input", str(milliampere))
    write(root, "sys/class/hwmon/hwmon0/name", "coretemp")
    write(root, "sys/class/hwmon/hwmon0/power1_input", "9000000")
    write(root, "sys/class/hwmon/hwmon4/name", "ina226")
    write(root, "sys/class/hwmon/hwmon4/power1_input", "2500000")
    assert said(here, root)["power"] == "VDD_IN 6000 mW, VDD_CPU 1252 mW, ina226 2500 mW"


def test_power_is_told_by_the_sensors_of_an_older_jetson(here: Transport, root: Path):
    chip = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    write(root, f"{chip}/rail_name_0", "POM_5V_IN")
    write(root, f"{chip}/in_power0_input", "2345")
    assert said(here, root)["power"] == "POM_5V_IN 2345 mW"


def test_what_a_board_does_not_tell_is_left_out(here: Transport, root: Path):
    assert not {"power", "temperature", "governor", "clock", "model", "python"} & set(said(here, root))


def test_what_is_installed_is_told_with_its_release(here: Transport):
    found = board_info(here, python=True)
    assert found["python"] == sys.version.split()[0]
    assert f"numpy {np.__version__}" in found["installed"].split(", ")
    assert "execution providers" not in found


def test_a_build_for_gpus_is_asked_which_providers_it_has(here: Transport, tmp_path: Path, monkeypatch):
    # Stands in for onnxruntime-gpu on a Jetson, which only a machine with its GPU has.
    site = tmp_path / "python-0"
    write(site, "onnxruntime_gpu-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.0")
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    write(site, "onnxruntime/__init__.py", f"def get_available_providers(): return {providers}")
    monkeypatch.setenv("PYTHONPATH", str(site))
    found = board_info(here, python=True)
    assert "onnxruntime-gpu 1.0" in found["installed"].split(", ")
    assert found["execution providers"] == ", ".join(providers)
