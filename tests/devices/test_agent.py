"""The agent on real devices over a real small bundle."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from devices import transport as transports
from devices.dispatch import Agent, dispatch
from devices.golden import Golden
from devices.native_agent import NativeAgent
from devices.profile import profile
from devices.protocol import Protocol
from devices.python_agent import PythonAgent
from msq.bundle import GOLDEN_FILE, MANIFEST_FILE
from msq.checksums import sha256_of
from msq.errors import BundleError, DeviceError, StorageError, UsageError
from msq.preprocessing import normalise
from runtimes import adapter


@contextmanager
def on(device: str, bundle: Path, runtime: str, **options: object) -> Iterator[Agent]:
    """The agent that a runtime has, on a device."""
    facts, packages = profile(device), adapter(runtime).PACKAGES
    with closing(transports.transport(facts.transport)) as transport:
        transport.prepare(facts, packages)
        if packages is None:
            yield NativeAgent(transport, bundle, **options)  # type: ignore[arg-type]
        else:
            yield PythonAgent(transport, bundle, runtime, **options)  # type: ignore[arg-type]


def classes(device: str, bundle: Path, images: np.ndarray, runtime: str, runs: int = 1) -> list[int]:
    with on(device, bundle, runtime) as agent:
        return dispatch(agent, agent.golden, images, runs, lambda count: None)[1]


def classify(device: str, bundle: Path, runtime: str, images: np.ndarray) -> None:
    with on(device, bundle, runtime) as agent:
        agent.classify(0, images, lambda found: None)


def compared(device: str, bundle: Path, runtime: str) -> Golden:
    with on(device, bundle, runtime) as agent:
        return agent.golden()[1]


@pytest.fixture(params=["native", "reference"])
def agent(request: pytest.FixtureRequest) -> str:
    """A runtime of each agent: msq-run, and the Python program."""
    return str(request.param)


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "copy"))


Change = Callable[[dict[str, np.ndarray]], None]


@pytest.fixture
def with_golden(copy: Path) -> Callable[[Change], Path]:
    """A function that returns the bundle with other golden vectors, its checksums up to date."""

    def change(edit: Change) -> Path:
        with np.load(copy / GOLDEN_FILE) as archive:
            golden = dict(archive)
        edit(golden)
        np.savez(copy / GOLDEN_FILE, **golden)
        manifest = json.loads((copy / MANIFEST_FILE).read_text())
        manifest["files"] = {name: sha256_of(copy / name) for name in manifest["files"]}
        (copy / MANIFEST_FILE).write_text(json.dumps(manifest))
        return copy

    return change


def test_the_emulated_board_computes_what_this_machine_does_bit_for_bit(bundle: Path, runtime: str, pictures):
    found = []
    for device in ("local", "raspberrypi"):
        with on(device, bundle, runtime) as agent:
            found.append(dispatch(agent, agent.golden, pictures[:64], 1, lambda count: None))
    ((here, *this), same), ((there, *that), again) = found
    assert (here.machine == "aarch64", there.machine) == (False, "aarch64")
    assert (this, same) == (that, again)
    assert that[0].equal_to_host


def test_predictions_are_the_runtimes_own_and_several_classes_occur(bundle: Path, runtime: str, pictures):
    manifest = json.loads((bundle / MANIFEST_FILE).read_text())
    x = normalise(pictures, manifest["input"]["mean"], manifest["input"]["std"])
    wanted = adapter(runtime).load(bundle, 1).run(x).argmax(axis=1)
    assert classes("local", bundle, pictures, runtime) == wanted.tolist()
    assert len(set(wanted)) > 2


@pytest.mark.parametrize("runs", [2, 3])
def test_predictions_do_not_depend_on_how_images_are_shared_out(bundle: Path, runtime: str, pictures, runs: int):
    assert classes("local", bundle, pictures[:50], runtime, runs) == classes("local", bundle, pictures[:50], runtime)


def test_a_device_that_is_given_no_images_compares_golden_vectors(bundle: Path, runtime: str, pictures):
    assert classes("local", bundle, pictures[:0], runtime) == []


@pytest.mark.parametrize(
    ("device", "runtime", "name"),
    [
        ("local", "reference", "weights.bin"),
        ("local", "reference", "model.json"),
        ("local", "reference", GOLDEN_FILE),
        ("local", "native", "model.json"),
        ("raspberrypi", "reference", "weights.bin"),
        ("raspberrypi", "native", "weights.bin"),
    ],
)
def test_an_altered_bundle_is_refused_on_the_device_and_the_file_is_named(copy: Path, pictures, device, runtime, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"bundle/{name}: sha256 is .* the manifest says") as caught:
        classify(device, copy, runtime, pictures[:1])
    assert caught.value.hint


def test_a_file_that_did_not_arrive_is_named(copy: Path, pictures, agent: str):
    (copy / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: (missing|No such file)"):
        classify("local", copy, agent, pictures[:1])


@pytest.mark.parametrize("lsb", [1, 2, 5])
def test_a_difference_to_the_oracle_is_counted_under_its_operator(with_golden, agent: str, lsb: int):
    def edit(golden: dict[str, np.ndarray]) -> None:
        golden["host/summed"] = golden["oracle/summed"].copy()
        golden["oracle/summed"][0, 0, 0, 0] += lsb if golden["oracle/summed"][0, 0, 0, 0] < 100 else -lsb

    changed = with_golden(edit)
    golden = compared("local", changed, agent)
    assert (golden.equal_to_host, golden.max_lsb_to_oracle, golden.differing) == (True, lsb, {"add": lsb})
    (summed,) = (tensor for tensor in golden.tensors if tensor.max_lsb)
    assert (summed.name, summed.kind, golden.agreeing, golden.images) == ("summed", "add", 4, 4)
    with np.load(changed / GOLDEN_FILE) as archive:
        signal = archive["oracle/summed"].astype(float) + 128
    assert summed.sqnr_db == pytest.approx(10 * np.log10((signal**2).sum() / lsb**2))


def test_a_difference_of_the_float_output_counts_in_steps_of_its_grid(with_golden, agent: str):
    def edit(golden: dict[str, np.ndarray]) -> None:
        golden["oracle/logits"][0, 0] += np.float32(3 * 0.009)  # the scale of "scores"

    golden = compared("local", with_golden(edit), agent)
    assert (golden.equal_to_host, golden.differing) == (False, {"dequantize": 3})


def test_golden_vectors_of_another_model_are_refused(with_golden, agent: str):
    golden = with_golden(lambda golden: golden.update({"oracle/ghost": golden["oracle/summed"]}))
    with pytest.raises(BundleError, match="'ghost' does not fit"):
        compared("local", golden, agent)


def test_every_timed_inference_is_told_as_the_protocol_asks(plain: Path, pictures, agent: str):
    with on("local", plain, agent) as found:
        latency = found.latency(pictures[:1], Protocol("test", 2, 0.0, 5, 0.0, 60.0))
        assert len(latency.seconds) == 5 and min(latency.seconds) > 0
        longer = found.latency(pictures[:1], Protocol("test", 0, 0.0, 1, 0.3, 60.0))
        assert sum(longer.seconds) > 0.15
        cut = found.latency(pictures[:1], Protocol("test", 0, 0.0, 100_000, 0.0, 2 * latency.seconds[-1]))
        assert 1 <= len(cut.seconds) < 100_000


@pytest.mark.parametrize(("runtime", "least"), [("native", 100 << 10), ("reference", 10 << 20)])
def test_memory_is_the_agents_own_and_not_its_parents(plain: Path, pictures, runtime: str, least: int):
    ballast = np.ones(400 << 20, np.uint8)
    with on("local", plain, runtime) as agent:
        memory = agent.memory(pictures[:1])
    for level in (memory.load_peak, memory.run_peak):
        assert level is not None and least < level < ballast.nbytes // 2
    assert memory.anonymous and memory.file_mapped and memory.run_peak
    assert memory.anonymous + memory.file_mapped <= 1.02 * memory.run_peak
    assert memory.first_seconds > 0


def test_an_unknown_runtime_is_refused_in_the_same_words_as_here(plain: Path, pictures):
    with closing(transports.transport("local")) as transport:
        agent = PythonAgent(transport, plain, "tensorflow")
        with pytest.raises(UsageError, match="unknown runtime 'tensorflow'"):
            agent.golden()


PROGRAMS = [
    ("import os, sys; print('out of luck', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
     r"killed by signal 9 .*out of luck"),
    ("raise RuntimeError('a bug')", r"exit code 1\): RuntimeError: a bug"),
    ("import time; time.sleep(600)", "no sign of life for 2 s"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "said"),
    [
        *PROGRAMS,
        ("open('answer-golden.json', 'w').write('{')", "answer cannot be read"),
        ("pass", r"answer-golden\.json: no such file"),
    ],
)
def test_an_agent_that_dies_hangs_or_babbles_is_a_device_error_with_its_last_words(
    plain: Path, tmp_path: Path, program: str, said: str
):
    (tmp_path / "agent.py").write_text(program)
    with on("local", plain, "reference", silence=2) as agent:
        agent.transport.put([tmp_path / "agent.py"], PurePosixPath("devices"))
        with pytest.raises(DeviceError, match=said):
            agent.golden()


def test_no_room_for_what_an_agent_writes_is_said_as_such(plain: Path, tmp_path: Path):
    (tmp_path / "agent.py").write_text("import pathlib; pathlib.Path('/dev/full').write_text('answer')")
    with on("local", plain, "reference") as agent, pytest.raises(StorageError, match="no space left on the device"):
        agent.transport.put([tmp_path / "agent.py"], PurePosixPath("devices"))
        agent.golden()


def with_program(agent: Agent, folder: Path, program: str) -> Agent:
    (folder / "msq-run").write_text(f"#!{sys.executable}\n{program}")
    (folder / "msq-run").chmod(0o755)
    agent.transport.put([folder / "msq-run"], PurePosixPath())
    return agent


@pytest.mark.parametrize(("program", "said"), [*PROGRAMS, ("pass", "said nothing of: ")])
def test_so_is_msq_run(plain: Path, tmp_path: Path, pictures, program: str, said: str):
    with on("local", plain, "native", silence=2) as agent:
        with_program(agent, tmp_path, program)
        for ask in (agent.golden, lambda: agent.memory(pictures[:1])):
            with pytest.raises(DeviceError, match=said):
                ask()


def test_tensors_that_were_not_written_whole_are_a_device_error(plain: Path, tmp_path: Path):
    program = "import sys\nopen(sys.argv[-1], 'wb').write(b'short')\n"
    program += """print('{"what": "tensor", "name": "codes", "dtype": "int8", "shape": [9, 9, 2]}')"""
    told = pytest.raises(DeviceError, match="wrote 5 bytes of tensors, 648 are wanted")
    with on("local", plain, "native") as agent, told:
        with_program(agent, tmp_path, program).golden()


def test_images_that_got_no_class_are_a_device_error(plain: Path, tmp_path: Path, pictures):
    class Lazy:
        def __init__(self, agent: Agent) -> None:
            self.transport = agent.transport

        def classify(self, number, images, on_predictions) -> None:
            on_predictions([0] * (len(images) - 1))

    with on("local", plain, "native") as agent, pytest.raises(DeviceError, match="3 of 4 images were classified"):
        dispatch(Lazy(agent), agent.golden, pictures[:4], 1, lambda count: None)  # type: ignore[arg-type]


def test_progress_adds_up_to_the_number_of_images(plain: Path, pictures, agent: str):
    heard: list[int] = []
    with on("local", plain, agent) as found:
        dispatch(found, found.golden, pictures[:77], 2, heard.append)
    assert sum(heard) == 77 and len(heard) > 2
