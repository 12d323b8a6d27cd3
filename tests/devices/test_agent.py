"""The agent on real devices over a real small bundle."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from devices import transport as transports
from devices.agent import Answer, Job
from devices.dispatch import Dispatcher
from devices.profile import profile
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
        transport.prepare(facts, adapter(runtime).PACKAGES)
        return Dispatcher(transport, bundle).run(job(runtime, **changed), images, agents, lambda count: None)


def predictions(answers: list[Answer]) -> list[int]:
    return [prediction for answer in answers for prediction in answer.predictions]


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
    ("device", "name"),
    [("local", "weights.bin"), ("local", "model.json"), ("local", GOLDEN_FILE), ("raspberrypi", "weights.bin")],
)
def test_an_altered_bundle_is_refused_on_the_device_and_the_file_is_named(copy: Path, pictures, device, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"bundle/{name}: sha256 is .* the manifest says") as caught:
        run(device, copy, pictures[:1], runtime="reference")
    assert caught.value.hint


def test_a_file_that_did_not_arrive_is_named(copy: Path, pictures):
    (copy / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: missing"):
        run("local", copy, pictures[:1], runtime="reference")


@pytest.mark.parametrize("lsb", [1, 2, 5])
def test_a_difference_to_the_oracle_is_counted_under_its_operator(with_golden, pictures, lsb: int):
    def edit(golden: dict[str, np.ndarray]) -> None:
        golden["host/summed"] = golden["oracle/summed"].copy()
        golden["oracle/summed"][0, 0, 0, 0] += lsb if golden["oracle/summed"][0, 0, 0, 0] < 100 else -lsb

    (answer,) = run("local", with_golden(edit), pictures[:0], runtime="reference")
    assert answer.golden is not None
    assert (answer.golden.equal_to_host, answer.golden.equal_to_oracle) == (True, False)
    assert (answer.golden.max_lsb_to_oracle, answer.golden.differing) == (lsb, {"add": lsb})


def test_a_difference_of_the_float_output_counts_in_steps_of_its_grid(with_golden, pictures):
    def edit(golden: dict[str, np.ndarray]) -> None:
        golden["oracle/logits"][0, 0] += np.float32(3 * 0.009)  # the scale of "scores"

    (answer,) = run("local", with_golden(edit), pictures[:0], runtime="reference")
    assert answer.golden is not None
    assert (answer.golden.equal_to_host, answer.golden.differing) == (False, {"dequantize": 3})


def test_golden_vectors_of_another_model_are_refused(with_golden, pictures):
    golden = with_golden(lambda golden: golden.update({"oracle/ghost": golden["oracle/summed"]}))
    with pytest.raises(BundleError, match="'ghost' does not fit"):
        run("local", golden, pictures[:0], runtime="reference")


def test_times_and_memory_are_observed_only_when_asked_for(plain: Path, pictures):
    (asked,) = run("local", plain, pictures[:8], runtime="reference", latency_samples=5)
    assert len(asked.latency_seconds) == 5 and min(asked.latency_seconds) > 0
    (unasked,) = run("local", plain, pictures[:8], runtime="reference")
    assert (unasked.latency_seconds, unasked.peak_memory_bytes) == ([], None)


def test_peak_memory_is_the_agents_own_and_not_its_parents(plain: Path, pictures):
    ballast = np.ones(400 << 20, np.uint8)
    (answer,) = run("local", plain, pictures[:8], runtime="reference", latency_samples=1)
    assert answer.peak_memory_bytes is not None
    assert (10 << 20) < answer.peak_memory_bytes < ballast.nbytes // 2


def test_an_unknown_runtime_is_refused_in_the_same_words_as_here(plain: Path, pictures):
    with closing(transports.transport("local")) as transport:
        dispatcher = Dispatcher(transport, plain)
        with pytest.raises(UsageError, match="unknown runtime 'tensorflow'"):
            dispatcher.run(job("tensorflow"), pictures[:1], 1, lambda count: None)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os, sys; print('out of luck', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
         r"killed by signal 9 .*out of luck"),
        ("raise RuntimeError('a bug')", r"exit code 1\): RuntimeError: a bug"),
        ("import time; time.sleep(600)", "no sign of life for 2 s"),
        ("open('answer-0.json', 'w').write('{')", "answer cannot be read"),
        ("pass", r"answer-0\.json: no such file"),
    ],
)  # fmt: skip
def test_an_agent_that_dies_hangs_or_babbles_is_a_device_error_with_its_last_words(
    plain: Path, tmp_path: Path, pictures, program: str, said: str
):
    (tmp_path / "agent.py").write_text(program)
    with closing(transports.transport("local")) as transport:
        dispatcher = Dispatcher(transport, plain)
        transport.put([tmp_path / "agent.py"], PurePosixPath())
        with pytest.raises(DeviceError, match=said):
            dispatcher.run(job("reference"), pictures[:4], 1, lambda count: None, silence=2)


def test_progress_adds_up_to_the_number_of_images(plain: Path, pictures):
    heard: list[int] = []
    with closing(transports.transport("local")) as transport:
        Dispatcher(transport, plain).run(job("reference"), pictures[:77], 2, heard.append)
    assert sum(heard) == 77 and len(heard) > 2
