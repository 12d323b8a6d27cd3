"""The agent on real devices over a real small bundle."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from devices import transport as transports
from devices.agent import Answer, Job
from devices.dispatch import dispatch
from devices.native_agent import NativeAgent
from devices.profile import profile
from devices.python_agent import PythonAgent
from msq.bundle import GOLDEN_FILE, MANIFEST_FILE
from msq.checksums import sha256_of
from msq.errors import BundleError, DeviceError, UsageError
from msq.preprocessing import normalise
from runtimes import adapter


def job(runtime: str, **changed: object) -> Job:
    values = {"bundle": "bundle", "runtime": runtime, "threads": 1, "images": "", "batch": 32}
    return Job(**{**values, "golden": True, "latency_samples": 0, **changed})  # type: ignore[arg-type]


def run(device: str, bundle: Path, images: np.ndarray, agents: int = 1, **changed: object) -> list[Answer]:
    runtime = str(changed.pop("runtime"))
    facts = profile(device)
    with closing(transports.transport(facts.transport)) as transport:
        packages = adapter(runtime).PACKAGES
        transport.prepare(facts, packages)
        agent = (NativeAgent if packages is None else PythonAgent)(transport, bundle)
        return dispatch(agent, job(runtime, **changed), images, agents, lambda count: None)


def predictions(answers: list[Answer]) -> list[int]:
    return [prediction for answer in answers for prediction in answer.predictions]


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
    here = run("local", bundle, pictures[:64], runtime=runtime)
    there = run("raspberrypi", bundle, pictures[:64], runtime=runtime)
    assert (here[0].machine == "aarch64", there[0].machine) == (False, "aarch64")
    assert here[0].golden == there[0].golden
    assert there[0].golden is not None and there[0].golden.equal_to_host
    assert predictions(here) == predictions(there)


def test_predictions_are_the_runtimes_own_and_several_classes_occur(bundle: Path, runtime: str, pictures):
    manifest = json.loads((bundle / MANIFEST_FILE).read_text())
    x = normalise(pictures, manifest["input"]["mean"], manifest["input"]["std"])
    wanted = adapter(runtime).load(bundle, 1).run(x).argmax(axis=1)
    assert predictions(run("local", bundle, pictures, runtime=runtime)) == wanted.tolist()
    assert len(set(wanted)) > 2


@pytest.mark.parametrize(("agents", "batch"), [(1, 1), (3, 32), (2, 1000)])
def test_predictions_do_not_depend_on_agents_and_batches(bundle: Path, runtime: str, pictures, agents, batch):
    wanted = predictions(run("local", bundle, pictures[:50], runtime=runtime))
    answers = run("local", bundle, pictures[:50], agents, runtime=runtime, batch=batch)
    assert predictions(answers) == wanted
    assert [answer.golden is None for answer in answers] == [False] + [True] * (agents - 1)


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
        run(device, copy, pictures[:1], runtime=runtime, golden=False)
    assert caught.value.hint


def test_a_file_that_did_not_arrive_is_named(copy: Path, pictures, agent: str):
    (copy / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: (missing|No such file)"):
        run("local", copy, pictures[:1], runtime=agent, golden=False)


@pytest.mark.parametrize("lsb", [1, 2, 5])
def test_a_difference_to_the_oracle_is_counted_under_its_operator(with_golden, pictures, agent: str, lsb: int):
    def edit(golden: dict[str, np.ndarray]) -> None:
        golden["host/summed"] = golden["oracle/summed"].copy()
        golden["oracle/summed"][0, 0, 0, 0] += lsb if golden["oracle/summed"][0, 0, 0, 0] < 100 else -lsb

    (answer,) = run("local", with_golden(edit), pictures[:0], runtime=agent)
    assert answer.golden is not None
    assert (answer.golden.equal_to_host, answer.golden.equal_to_oracle) == (True, False)
    assert (answer.golden.max_lsb_to_oracle, answer.golden.differing) == (lsb, {"add": lsb})


def test_a_difference_of_the_float_output_counts_in_steps_of_its_grid(with_golden, pictures, agent: str):
    def edit(golden: dict[str, np.ndarray]) -> None:
        golden["oracle/logits"][0, 0] += np.float32(3 * 0.009)  # the scale of "scores"

    (answer,) = run("local", with_golden(edit), pictures[:0], runtime=agent)
    assert answer.golden is not None
    assert (answer.golden.equal_to_host, answer.golden.differing) == (False, {"dequantize": 3})


def test_golden_vectors_of_another_model_are_refused(with_golden, pictures, agent: str):
    golden = with_golden(lambda golden: golden.update({"oracle/ghost": golden["oracle/summed"]}))
    with pytest.raises(BundleError, match="'ghost' does not fit"):
        run("local", golden, pictures[:0], runtime=agent)


def test_times_and_memory_are_observed_only_when_asked_for(plain: Path, pictures, agent: str):
    (asked,) = run("local", plain, pictures[:8], runtime=agent, latency_samples=5)
    assert len(asked.latency_seconds) == 5 and min(asked.latency_seconds) > 0
    (unasked,) = run("local", plain, pictures[:8], runtime=agent)
    assert (unasked.latency_seconds, unasked.peak_memory_bytes) == ([], None)


@pytest.mark.parametrize(("runtime", "least"), [("native", 100 << 10), ("reference", 10 << 20)])
def test_peak_memory_is_the_agents_own_and_not_its_parents(plain: Path, pictures, runtime: str, least: int):
    ballast = np.ones(400 << 20, np.uint8)
    (answer,) = run("local", plain, pictures[:8], runtime=runtime, latency_samples=1)
    assert answer.peak_memory_bytes is not None
    assert least < answer.peak_memory_bytes < ballast.nbytes // 2


def test_an_unknown_runtime_is_refused_in_the_same_words_as_here(plain: Path, pictures):
    with closing(transports.transport("local")) as transport:
        agent = PythonAgent(transport, plain)
        with pytest.raises(UsageError, match="unknown runtime 'tensorflow'"):
            dispatch(agent, job("tensorflow"), pictures[:1], 1, lambda count: None)


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
        ("open('answer-0.json', 'w').write('{')", "answer cannot be read"),
        ("pass", r"answer-0\.json: no such file"),
    ],
)
def test_an_agent_that_dies_hangs_or_babbles_is_a_device_error_with_its_last_words(
    plain: Path, tmp_path: Path, pictures, program: str, said: str
):
    (tmp_path / "agent.py").write_text(program)
    with closing(transports.transport("local")) as transport:
        agent = PythonAgent(transport, plain, silence=2)
        transport.put([tmp_path / "agent.py"], PurePosixPath("devices"))
        with pytest.raises(DeviceError, match=said):
            dispatch(agent, job("reference"), pictures[:4], 1, lambda count: None)


@pytest.mark.parametrize(("program", "said"), [*PROGRAMS, ("pass", "said nothing of the model")])
def test_so_is_msq_run(plain: Path, tmp_path: Path, pictures, program: str, said: str):
    (tmp_path / "msq-run").write_text(f"#!{sys.executable}\n{program}")
    (tmp_path / "msq-run").chmod(0o755)
    with closing(transports.transport("local")) as transport:
        agent = NativeAgent(transport, plain, silence=2)
        transport.put([tmp_path / "msq-run"], PurePosixPath())
        with pytest.raises(DeviceError, match=said):
            dispatch(agent, job("native", golden=False), pictures[:4], 1, lambda count: None)


def test_tensors_that_were_not_written_whole_are_a_device_error(plain: Path, tmp_path: Path, pictures):
    program = "import sys\nopen(sys.argv[-1], 'wb').write(b'short')\n"
    program += """print('{"what": "tensor", "name": "codes", "dtype": "int8", "shape": [9, 9, 2]}')"""
    (tmp_path / "msq-run").write_text(f"#!{sys.executable}\n{program}")
    (tmp_path / "msq-run").chmod(0o755)
    with closing(transports.transport("local")) as transport:
        agent = NativeAgent(transport, plain)
        transport.put([tmp_path / "msq-run"], PurePosixPath())
        with pytest.raises(DeviceError, match="wrote 5 bytes of tensors, 648 are wanted"):
            dispatch(agent, job("native"), pictures[:4], 1, lambda count: None)


@pytest.mark.parametrize("kind", [PythonAgent, NativeAgent])
def test_progress_adds_up_to_the_number_of_images(plain: Path, pictures, kind):
    heard: list[int] = []
    with closing(transports.transport("local")) as transport:
        dispatch(kind(transport, plain), job("reference"), pictures[:77], 2, heard.append)
    assert sum(heard) == 77 and len(heard) > 2
