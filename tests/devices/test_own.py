"""Boards of the user's own, and every other name that a device may have."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices import manage, own
from devices.own import Own, add, own_devices
from devices.profile import profile
from msq.errors import UsageError


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project and a user without boards."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_a_board_that_was_named_is_its_profile_reached_by_its_address():
    manage.add("pi", "me@10.0.0.7:2222", None, "raspberrypi4", project=False)
    found, facts = profile("pi"), profile("raspberrypi4")
    assert (found.name, found.transport, found.address) == ("pi", "ssh", "me@10.0.0.7:2222")
    assert found.title == "pi (Raspberry Pi 4 Model B)"
    assert (found.cores, found.memory_mib) == (facts.cores, facts.memory_mib)


def test_nothing_is_said_to_stand_in_for_a_real_phone():
    manage.add("phone", None, "R58M", "android", project=True)
    found = profile("phone")
    assert (found.transport, found.link, found.address) == ("adb", "adb", "R58M")
    assert "stand-in" not in found.facts and "emulated as" not in found.facts


def test_the_projects_board_comes_before_the_users_of_the_same_name():
    manage.add("pi", "user@there", None, None, project=False)
    manage.add("pi", "user@here", None, None, project=True)
    assert profile("pi").address == "user@here"


@pytest.mark.parametrize(
    ("name", "transport", "address"),
    [
        ("ssh:pi@10.0.0.7", "ssh", "pi@10.0.0.7"),
        ("ssh:Board.local:22", "ssh", "Board.local:22"),
        ("ssh:[fe80::1]:22", "ssh", "[fe80::1]:22"),
        ("adb:R58M123", "adb", "R58M123"),
        ("adb:10.0.0.9:5555", "adb", "10.0.0.9:5555"),
    ],
)
def test_a_board_without_a_name_is_reached_by_its_address(name: str, transport: str, address: str):
    found = profile(name)
    assert (found.transport, found.address, found.link) == (transport, address, transport)


def test_a_machine_is_the_profile_that_its_name_says():
    found = profile("vm:jetson")
    assert found.transport == "vm"
    assert found.model_copy(update={"transport": "emulator"}) == profile("jetson-orin-nano")


addresses = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)


@given(boards=st.dictionaries(names, st.one_of(st.builds(Own, host=addresses), st.builds(Own, serial=addresses))))
def test_boards_are_read_as_they_were_added(tmp_path_factory, boards: dict[str, Own]):
    file = tmp_path_factory.mktemp("own") / "devices.toml"
    for name, board in boards.items():
        add(name, board, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "files", lambda: [file])
        assert own_devices() == boards


def test_what_a_user_wrote_into_the_file_stays_there(folders: Path):
    Path("devices.toml").write_text('# mine\n[one]\nhost = "a"')
    manage.add("two", "b", None, None, project=True)
    assert Path("devices.toml").read_text() == '# mine\n[one]\nhost = "a"\n\n[two]\nhost = "b"\n'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("raspberrypi", "a", None, None), "the name of a profile"),
        (("My Pi", "a", None, None), "cannot name a device"),
        (("pi", None, None, None), "either --host or --serial"),
        (("pi", "a", "b", None), "either --host or --serial"),
        (("pi", "a", None, "rasberrypi4"), "unknown device 'rasberrypi4'"),
    ],
)
def test_a_board_that_cannot_be_named_so_is_refused_and_nothing_is_written(arguments, said: str):
    with pytest.raises(UsageError, match=said):
        manage.add(*arguments, project=True)
    assert not Path("devices.toml").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pi", "not TOML"),
        ("[pi]\n", "either host or serial"),
        ('[pi]\nhost = "a"\ncolour = "red"', "pi.colour"),
        ('["My Pi"]\nhost = "a"', "My Pi"),
        ('[pi]\nhost = "a"\nprofile = "toaster"', "unknown device 'toaster'"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(text: str, said: str):
    Path("devices.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        profile("pi")


def test_an_unknown_name_is_refused_with_the_users_boards_among_the_known():
    manage.add("workbench", "a", None, None, project=True)
    with pytest.raises(UsageError, match=r"unknown device 'workbnch'; there are: .*workbench") as caught:
        profile("workbnch")
    assert "workbench" in caught.value.hint
