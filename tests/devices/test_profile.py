from pathlib import Path

import pytest

from devices import provision, transport
from devices.profile import names, profile, profiles
from msq.errors import UsageError

VALID = """
name = "my-board"
title = "My board"
processor = "4 × Cortex-A53"
qemu_cpu = "cortex-a53"
"""


def test_the_promised_devices_have_profiles():
    assert names() == [
        "android", "jetson-nano", "jetson-orin-nano", "local", "raspberrypi3b", "raspberrypi4", "raspberrypi5",
    ]  # fmt: skip
    assert profile("raspberrypi").name == "raspberrypi4"
    assert profile("jetson").name == "jetson-orin-nano"


@pytest.mark.parametrize("name", names())
def test_a_profile_is_whole_and_its_transport_exists(name):
    found = profile(name)
    assert found.transport in transport.names()
    assert found.facts["processor"] == found.processor
    if found.transport == "emulator":
        assert None not in (found.cores, found.clock_mhz, found.memory_mib, found.bandwidth_gb_s, found.l1d_kib)


def test_every_emulated_device_names_a_processor_of_the_emulator_and_never_max():
    known = provision.board().cpus()
    assert "max" not in known
    assert {found.qemu_cpu for found in profiles() if found.transport == "emulator"} <= set(known)


def test_no_name_or_alias_belongs_to_two_devices():
    taken = [name for found in profiles() for name in (found.name, *found.aliases)]
    assert len(taken) == len(set(taken))


def test_a_stand_in_is_said_where_the_emulated_processor_is_not_the_boards():
    assert "A76 stands in for Cortex-A78AE" in profile("jetson").stand_in
    assert "no bionic" in profile("android").facts["stand-in"]


def test_an_unknown_device_is_refused_with_the_known_ones_and_the_nearest():
    with pytest.raises(UsageError, match=r"unknown device 'rasperrypi'; there are: .*jetson.*raspberrypi4") as caught:
        profile("rasperrypi")
    assert "raspberrypi" in caught.value.hint


def test_a_profile_of_the_users_own_is_read_from_its_file(tmp_path: Path):
    (tmp_path / "mine.toml").write_text(VALID)
    assert profile(str(tmp_path / "mine.toml")).name == "my-board"


@pytest.mark.parametrize(
    ("text", "said"),
    [(VALID + "colour = 'red'", "colour"), (VALID + "cores = 0", "cores"), ("name =", "not TOML"), ("", "name")],
)
def test_a_broken_profile_is_refused_with_its_file_and_key(tmp_path: Path, text: str, said: str):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=rf"mine\.toml.*{said}"):
        profile(str(tmp_path / "mine.toml"))


def test_a_missing_profile_file_is_refused():
    with pytest.raises(UsageError, match="no such device profile"):
        profile("nowhere/mine.toml")
