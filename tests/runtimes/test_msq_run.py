"""msq-run, the static program: here, and on an emulated board that holds nothing else."""

import json
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import runtimes
from devices import provision
from export.bundle import export
from msq import __version__
from msq.preprocessing import normalise
from msq.recipe import RecipeFile
from runtimes._kernels import KERNELS
from train.fit import train

PROGRAM = KERNELS / platform.machine() / "msq-run"
LIMIT = 400 * 1024


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, write_images) -> Path:
    """A trained model's bundle, not to be altered."""
    folder = tmp_path_factory.mktemp("run")
    write_images(folder / "data", (16, 16, 3), {"train": 4, "test": 4}, labels=2, noise=120, apart=120)
    (folder / "tiny.yaml").write_text(
        f"name: tiny\ndata: {{name: image-folder, path: {folder / 'data'}, height: 16, width: 16}}\n"
        "model: {name: resnet8}\nfloat: {epochs: 1, batch_size: 4, learning_rate: 0.01}\n"
        "method: {name: lsq, epochs: 1}\nbudget: {average_bits: 3}\nactivations: {range: calibrated}\n"
    )
    train(RecipeFile.read(folder / "tiny.yaml"), folder / "checkpoint", folder / "work", Console(quiet=True))
    export(folder / "checkpoint", folder / "bundle", "native")
    return folder / "bundle"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(1).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8))
    return path


def said(*arguments: object, program: tuple[object, ...] = (PROGRAM,), **options: object) -> list[dict]:
    done = subprocess.run([str(each) for each in (*program, *arguments)], capture_output=True, check=False, **options)
    return [json.loads(line) for line in done.stdout.splitlines()] + [{"code": done.returncode}]


def expected(bundle: Path, images: Path) -> np.ndarray:
    spec = json.loads((bundle / "manifest.json").read_text())["input"]
    return runtimes.adapter("reference").load(bundle, 1).run(normalise(np.load(images), spec["mean"], spec["std"]))


@pytest.mark.parametrize("processor", ["x86_64", "aarch64"])
def test_the_program_is_small_and_needs_no_library(processor: str):
    program = (KERNELS / processor / "msq-run").read_bytes()
    assert len(program) <= LIMIT
    assert b"ld-linux" not in program
    assert b"ld-musl" not in program


def test_pixels_give_the_oracle_s_outputs_and_every_line_says_what_it_holds(bundle: Path, images: Path, tmp_path: Path):
    y = expected(bundle, images)
    np.save(tmp_path / "labels.npy", np.arange(40) % 2)
    files = ["--input", images, "--labels", tmp_path / "labels.npy", "--output", tmp_path / "y.npy"]
    lines = said(bundle, *files, "--top", "2", "--repeat", "3", "--profile")
    assert lines[-1] == {"code": 0}
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), y)
    of = lambda what: [line for line in lines if line.get("what") == what]  # noqa: E731
    assert [index for line in of("images") for index in line["predictions"]] == y.argmax(1).tolist()
    assert [line["done"] for line in of("images")] == [32, 40]
    assert of("accuracy") == [
        {"what": "accuracy", "correct": int((y.argmax(1) == np.arange(40) % 2).sum()), "total": 40}
    ]
    assert [one["classes"][0]["class"] for one in of("top")] == y.argmax(1).tolist()
    assert of("top")[3]["classes"][0]["value"] == pytest.approx(y[3].max(), rel=1e-7)
    assert len(of("latency")[0]["seconds"]) == 3
    (memory,) = of("memory")
    assert memory["run_peak_bytes"] > of("model")[0]["arena_bytes"] > 0
    assert memory["anonymous_bytes"] + memory["file_bytes"] <= 1.02 * memory["run_peak_bytes"]
    assert 0 < of("model")[0]["load_seconds"] < of("first")[0]["seconds"]
    assert [set(line) for line in of("conditions")] == [
        {"what", "governors", "frequencies_khz", "limits_khz", "temperatures"}
    ] * 2
    assert {node["runs"] for node in of("profile")[0]["nodes"] if not node["fused"]} == {10 + 3 + 40}


def test_the_program_and_the_library_are_of_this_release():
    assert subprocess.run([PROGRAM, "--version"], capture_output=True, text=True).stdout == f"msq-run {__version__}\n"
    assert runtimes.adapter("native").version() == __version__


def test_a_stream_and_float_images_give_the_same(bundle: Path, images: Path, tmp_path: Path):
    spec = json.loads((bundle / "manifest.json").read_text())["input"]
    np.save(tmp_path / "x.npy", normalise(np.load(images), spec["mean"], spec["std"]))
    said(bundle, "--input", tmp_path / "x.npy", "--output", tmp_path / "one.npy")
    said(bundle, "--input", "-", "--output", tmp_path / "two.npy", stdin=images.open("rb"))
    for name in ("one", "two"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected(bundle, images))


def test_an_emulated_board_with_nothing_else_in_it_gives_the_same(bundle: Path, images: Path, tmp_path: Path):
    board = provision.board()
    (tmp_path / "root").mkdir()
    program = board.command(tmp_path / "root", "cortex-a53", [str(KERNELS / "aarch64" / "msq-run")])
    lines = said(bundle, "--input", images, "--output", tmp_path / "y.npy", program=tuple(program))
    assert lines[-1] == {"code": 0}
    assert lines[0]["tier"] == "neon"
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected(bundle, images))


def test_every_tensor_is_written_in_the_model_s_order(bundle: Path, images: Path, tmp_path: Path):
    said(bundle, "--input", images, "--tensors", tmp_path / "tensors")
    spec = json.loads((bundle / "manifest.json").read_text())["input"]
    pictures = normalise(np.load(images), spec["mean"], spec["std"])
    oracle = runtimes.adapter("reference").load(bundle, 1).tensors(pictures)
    wanted = b"".join(value[i].tobytes() for i in range(len(pictures)) for value in oracle.values())
    assert (tmp_path / "tensors").read_bytes() == wanted


@pytest.mark.parametrize("name", ["model.json", "weights.bin"])
def test_an_altered_file_is_refused_by_its_checksum(bundle: Path, tmp_path: Path, name: str):
    shutil.copytree(bundle, tmp_path, dirs_exist_ok=True)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    (error, code) = said(tmp_path)
    assert code == {"code": 8}
    assert f"{name}: sha256 is" in error["error"]
    assert error["exit_code"] == 8


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--threads", "0"], 2, "--threads 0: not a number that it takes"),
        (["--speed"], 2, "--speed: unknown, or its value is missing"),
        (["--top", "3"], 2, "there is no --input to do that with"),
        (["--input", "nan.npy", "--tensors", "t", "--repeat", "1"], 2, "--tensors runs without fusion"),
        (["--tier", "sse9"], 10, "no tier is named sse9 here"),
        (["--input", "nothing.npy"], 5, "nothing.npy: No such file or directory"),
        (["--input", "small.npy"], 5, "small.npy: not float32 or uint8 images of 16 × 16 × 3"),
        (["--input", "cut.npy"], 5, "cut.npy: it ends before its last element"),
        (["--input", "nan.npy"], 5, "element 0 is not a number"),
        (["--input", "text.npy"], 5, "text.npy: not a .npy file"),
        (["--input", "nan.npy", "--output", "no/such/y.npy"], 11, "no/such/y.npy: No such file or directory"),
    ],
)
def test_a_mistake_gets_one_line_and_its_exit_code(bundle: Path, tmp_path: Path, arguments, code, message):
    np.save(tmp_path / "small.npy", np.zeros((2, 8, 8, 3), np.uint8))
    np.save(tmp_path / "cut.npy", np.zeros((2, 16, 16, 3), np.uint8))
    np.save(tmp_path / "nan.npy", np.full((1, 16, 16, 3), np.nan, np.float32))
    (tmp_path / "text.npy").write_text("images")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-1])
    lines = said(bundle, *arguments, cwd=tmp_path)
    assert lines[-1] == {"code": code}
    assert message in lines[-2]["error"]
    assert lines[-2]["exit_code"] == code
