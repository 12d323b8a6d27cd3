"""What the contract does not say of a board over SSH: what breaks, who may come in, and what is said then."""

import json
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

import asyncssh
import numpy as np
import pytest
from cable import Cable
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sshd import Sshd, board

from devices import transport as transports
from devices.dispatch import dispatch
from devices.native_agent import NativeAgent
from devices.profile import profile
from devices.shell import Shell
from devices.transports.ssh import Ssh, SshLink
from msq.errors import DeviceError

SIZE = 6_000_000

Connect = Callable[..., Ssh]


@pytest.fixture
def connect(sshd: Sshd, cable: Cable, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """A function that returns a prepared board behind a cable, or directly; boards are closed before the cable is."""
    # The board is this machine, which other checkouts may be tested on at the same time.
    monkeypatch.setattr(SshLink, "shared", str(sshd.folder))
    boards: list[Ssh] = []

    def connect(cable: Cable | None = None, packages: list[str] | None = None) -> Ssh:
        name = f"config-{cable.port}" if cable else "config"
        boards.append(Ssh(sshd.configuration(cable.port, name=name) if cable else sshd.config))
        boards[-1].prepare(board("ssh"), packages)
        return boards[-1]

    yield connect
    for opened in boards:
        opened.close()


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A file that was on no board before."""
    path = tmp_path / "noise.bin"
    path.write_bytes(np.random.default_rng().bytes(SIZE))
    return path


def back(device: Ssh, name: str, tmp_path: Path) -> bytes:
    device.get(PurePosixPath(name), tmp_path / "back")
    return (tmp_path / "back").read_bytes()


def runs(process: str) -> bool:
    """Return whether a process runs; one that ended may still be waited for."""
    status = Path("/proc", process, "status")
    return status.exists() and "State:\tZ" not in status.read_text()


def kept(sshd: Sshd) -> Path:
    return sshd.home / ".cache" / "msq"


def test_nothing_is_sent_twice_whatever_its_name_and_whoever_sends_it(connect: Connect, cable: Cable, noise: Path):
    first = connect(cable)
    first.put([noise], PurePosixPath())
    assert cable.carried > SIZE
    first.close()
    before = cable.carried
    second = connect(cable)
    copy = Path(shutil.copy(noise, noise.with_name("other name")))
    second.put([copy, noise], PurePosixPath("b"))
    assert back(second, "b/other name", noise.parent) == noise.read_bytes()
    assert cable.carried - before < SIZE / 10


def test_a_kept_file_that_was_altered_on_the_board_is_sent_again(connect: Connect, sshd: Sshd, noise: Path):
    device = connect()
    device.put([noise], PurePosixPath())
    (altered,) = (file for file in (kept(sshd) / "files").iterdir() if file.read_bytes() == noise.read_bytes())
    altered.write_bytes(b"x" * SIZE)
    device.put([noise], PurePosixPath())
    assert back(device, noise.name, noise.parent) == noise.read_bytes()


def test_what_arrives_altered_is_refused_by_its_checksum_and_never_put_in_place(
    connect: Connect, noise: Path, monkeypatch
):
    device, send = connect(), Shell.send
    other = noise.with_name("other.bin")
    other.write_bytes(bytes(SIZE))
    monkeypatch.setattr(Shell, "send", lambda shell, file, offset, script: send(shell, other, offset, script))
    with pytest.raises(DeviceError, match=r"noise\.bin does not arrive as it was sent"):
        device.put([noise], PurePosixPath())
    assert device.run(["ls"], 60).stdout == ""


def test_an_upload_goes_on_where_the_link_was_cut(connect: Connect, cable: Cable, noise: Path):
    device = connect(cable)
    before = cable.carried
    cable.cut_after(int(SIZE * 0.8))
    device.put([noise], PurePosixPath())
    assert back(device, noise.name, noise.parent) == noise.read_bytes()
    # At most 2 MiB, SSH's window, were on their way at the cut; from the start again it would be 1.8 × the size.
    assert cable.carried - before < SIZE * 1.6


def test_an_upload_to_a_board_that_does_not_come_back_leaves_no_half_file_in_place(
    connect: Connect, cable: Cable, noise: Path, sshd: Sshd
):
    device = connect(cable)
    device._shell.patience = 1.0
    threading.Timer(0.3, cable.unplug).start()
    with pytest.raises(DeviceError, match="did not come back within 1 s") as caught:
        while True:
            noise.write_bytes(np.random.default_rng().bytes(SIZE))
            device.put([noise], PurePosixPath())
    assert caught.value.hint
    assert all(file.stat().st_size == SIZE for file in kept(sshd).glob("work-*/noise.bin"))


def test_a_program_goes_on_while_the_link_is_cut_and_nothing_that_it_says_is_lost_or_heard_twice(
    connect: Connect, cable: Cable
):
    device = connect(cable)
    program = (
        "import os, sys, time\nprint(os.getpid())\nfor n in range(40):\n"
        "    print(f'{n} ü', flush=True); print(n, file=sys.stderr, flush=True); time.sleep(0.05)\nsys.exit(5)"
    )
    heard: list[str] = []

    def cut(line: str) -> None:
        heard.append(line)
        if len(heard) in (5, 15):
            cable.cut()

    done = device.run(["python3", "-c", program], 60, cut)
    assert done.returncode == 5
    assert heard[1:] == [f"{n} ü" for n in range(40)]
    assert done.stdout.splitlines() == heard
    assert done.stderr.split() == [str(n) for n in range(40)]


def test_a_program_that_ends_while_the_link_is_away_is_heard_to_its_end(connect: Connect, cable: Cable):
    device = connect(cable)
    program = "import time; print('one', flush=True); time.sleep(0.5); print('two')"

    def unplug(line: str) -> None:
        if line == "one":
            cable.unplug()
            threading.Timer(1.5, cable.plug).start()

    done = device.run(["python3", "-c", program], 60, unplug)
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")


def test_a_program_that_never_started_for_the_link_was_cut_is_started_once(connect: Connect, cable: Cable, sshd: Sshd):
    device = connect(cable)
    start = device._shell.link.start
    cut = iter([True])

    def cut_first(script: str):
        if "oom_score_adj" in script and next(cut, False):
            cable.cut()
        return start(script)

    device._shell.link.start = cut_first  # type: ignore[method-assign]
    assert device.run(["python3", "-c", "print('once', file=open('log', 'a'))"], 60).returncode == 0
    assert back(device, "log", sshd.folder) == b"once\n"


def test_a_measurement_whose_link_is_cut_again_and_again_has_every_answer(
    connect: Connect, cable: Cable, native: Path, pictures: np.ndarray
):
    agent = NativeAgent(connect(cable), native)
    cuts = iter([True, False, True])

    def cut(_: int) -> None:
        if next(cuts, False):
            cable.cut()

    (_, golden), predicted = dispatch(agent, agent.golden, pictures[:40], 1, cut)
    assert not golden.max_lsb_to_oracle
    with closing(transports.transport("local")) as here:
        here.prepare(profile("local"), None)
        local = NativeAgent(here, native)
        expected = dispatch(local, local.golden, pictures[:40], 1, lambda count: None)[1]
    assert predicted == expected


def test_a_link_that_was_cut_between_two_programs_is_not_noticed(connect: Connect, cable: Cable):
    device = connect(cable)
    for _ in range(2):
        assert device.run(["python3", "-c", "print('here')"], 60).stdout == "here\n"
        cable.cut()


def test_a_second_client_is_told_who_has_the_board_and_gets_it_afterwards(connect: Connect):
    first = connect()
    with pytest.raises(DeviceError, match=r"Board is in use by \S+@\S+ since \d{4}-") as caught:
        connect()
    assert "end process" in caught.value.hint
    first.close()
    connect().close()


def test_what_a_client_that_died_left_behind_is_ended_and_removed_by_the_next(connect: Connect, sshd: Sshd):
    dead = connect()
    started = threading.Event()
    numbers: list[str] = []

    def hear(line: str) -> None:
        numbers.append(line)
        started.set()

    def run() -> None:
        with pytest.raises(DeviceError):
            dead.run(["python3", "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"], 60, hear)

    dead._shell.patience = 0.0
    dead._shell.link.open = lambda: (_ for _ in ()).throw(DeviceError("dead"))  # type: ignore[method-assign]
    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    dead._shell.link.close()
    thread.join(60)
    assert runs(numbers[0])
    connect()
    assert not runs(numbers[0])
    assert len(list(kept(sshd).glob("work-*"))) == 1


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)


@pytest.fixture
def shared(connect: Connect) -> Ssh:
    return connect()


@given(file=names, folder=names)
@example(file="$(touch hacked)", folder="`touch hacked`")
@example(file="-rf", folder="--help")
@example(file="'; touch hacked; '", folder='" && touch hacked "')
@example(file="line\nbreak", folder="*")
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_are_never_taken_for_something_of_the_shell(shared: Ssh, sshd: Sshd, tmp_path: Path, file, folder):
    (tmp_path / file).write_bytes(file.encode())
    shared.put([tmp_path / file], PurePosixPath(folder))
    shared.get(PurePosixPath(folder, file), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.encode()
    assert not list(sshd.home.rglob("hacked"))


@given(arguments=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=5))
@example(arguments=["$HOME", "a b", "", "'", '"', "\n", "*", "-n"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arguments_arrive_as_they_are(shared: Ssh, arguments: list[str]):
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    assert json.loads(shared.run(["python3", "-c", program, *arguments], 60).stdout) == arguments


@pytest.mark.parametrize("known", ["", "[127.0.0.1]:{port} {other}\n"])
def test_a_host_key_that_is_unknown_or_has_changed_is_refused(sshd: Sshd, tmp_path: Path, known: str):
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (tmp_path / "hosts").write_text(known.format(port=sshd.port, other=other))
    config = tmp_path / "config"
    config.write_text(f"Host board\n UserKnownHostsFile {tmp_path / 'hosts'}\n{sshd.config.read_text()}")
    with closing(Ssh(config)) as device, pytest.raises(DeviceError, match="host key") as caught:
        device.prepare(board("ssh"), None)
    assert f"ssh -F {config} -- board" in caught.value.hint


def test_a_key_that_the_board_does_not_know_is_refused_with_the_way_to_let_it_in(sshd: Sshd, tmp_path: Path):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "key")
    config = tmp_path / "config"
    config.write_text(sshd.config.read_text().replace(str(sshd.folder / "key"), str(tmp_path / "key")))
    with closing(Ssh(config)) as device, pytest.raises(DeviceError, match="refuses the login") as caught:
        device.prepare(board("ssh"), None)
    assert "ssh-copy-id" in caught.value.hint


@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="no ssh-agent here")
def test_a_key_that_only_the_agent_holds_opens_the_board(sshd: Sshd, tmp_path: Path, monkeypatch):
    socket = tmp_path / "agent"
    config = tmp_path / "config"
    lines = sshd.config.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if "Identity" not in line))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as agent:
        try:
            while not socket.exists():
                assert agent.poll() is None
            with closing(Ssh(config)) as device, pytest.raises(DeviceError, match="refuses the login"):
                device.prepare(board("ssh"), None)
            subprocess.run(["ssh-add", "-q", str(sshd.folder / "key")], check=True)
            with closing(Ssh(config)) as device:
                device.prepare(board("ssh"), None)
        finally:
            agent.terminate()


def test_a_board_that_is_off_is_said_to_be_out_of_reach(sshd: Sshd, cable: Cable):
    config = sshd.configuration(cable.port, name="off")
    cable.close()
    with closing(Ssh(config)) as device, pytest.raises(DeviceError, match=r"Board: no link: .*refused") as caught:
        device.prepare(board("ssh"), None)
    assert "is the board on" in caught.value.hint


def test_a_jump_host_of_the_configuration_is_used(sshd: Sshd, cable: Cable):
    host = f"Host jump\n HostName 127.0.0.1\n Port {cable.port}\n User me\n IdentityFile {sshd.folder / 'key'}\n"
    host += f" UserKnownHostsFile {sshd.folder / 'jump-hosts'}\n IdentityAgent none\n"
    sshd.configuration(cable.port, name="jump")
    config = sshd.configuration(sshd.port, f" ProxyJump jump\n{host}", "jumping")
    with closing(Ssh(config)) as device:
        device.prepare(board("ssh"), None)
        assert device.machine
    assert cable.carried


def test_a_board_without_python_is_told_that_native_needs_none(sshd: Sshd, tmp_path: Path):
    for tool in ("sh", "uname", "mkdir", "flock", "mktemp", "chmod", "mv", "cat", "find", "sed", "rm", "sleep", "env"):
        path = shutil.which(tool)
        assert path
        (tmp_path / tool).symlink_to(path)
    with closing(Sshd(tmp_path / "bare", str(tmp_path))) as bare, closing(Ssh(bare.config)) as device:
        with pytest.raises(DeviceError, match="Board has no python3") as caught:
            device.prepare(board("ssh"), [])
        assert "native" in caught.value.hint


def test_a_python_that_lacks_a_package_gets_it_in_a_private_folder(sshd: Sshd, tmp_path: Path, monkeypatch):
    wheel = tmp_path / "absent-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("absent.py", "VALUE = 42\n")
        archive.writestr("absent-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: absent\nVersion: 1.0\n")
    # pip, which fetches wheels, is tried on the emulated machine.
    monkeypatch.setattr("devices.wheels.fetch", lambda pins, target: [wheel])
    for _ in range(2):
        with closing(Ssh(sshd.config)) as device:
            device.prepare(board("ssh"), ["absent==1.0"])
            assert device.run(["python3", "-c", "import absent; print(absent.VALUE)"], 60).stdout == "42\n"
        # It is there from now on.
        wheel.unlink(missing_ok=True)


def test_a_build_for_gpus_of_the_same_release_is_used_as_it_is(sshd: Sshd, tmp_path: Path, monkeypatch):
    (tmp_path / "absent_gpu-1.0.dist-info").mkdir()
    (tmp_path / "absent.py").write_text("VALUE = 'of the board'\n")
    monkeypatch.setitem(sshd.environment, "PYTHONPATH", str(tmp_path))
    with closing(Ssh(sshd.config)) as device:
        device.prepare(board("ssh"), ["absent==1.0"])
        said = device.run(["python3", "-c", "import absent; print(absent.VALUE)"], 60).stdout
    assert said == "of the board\n"
