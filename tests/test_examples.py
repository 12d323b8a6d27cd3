"""The examples, built and run as their heads say, give the oracle's classes."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ziglang
from PIL import Image

import runtimes
from msq.preprocessing import normalise
from tests.export.chains import Chain

ROOT = Path(__file__).parents[1]
SHAPE = (6, 5, 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
K = 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What of a bundle the examples read."""
    chain = Chain(0, SHAPE)
    chain.conv(4, 8)
    chain.average_pool()
    chain.flatten()
    chain.linear(5, 7)
    folder = tmp_path_factory.mktemp("bundle")
    chain.model().save(folder)
    spec = {"height": SHAPE[0], "width": SHAPE[1], "channels": SHAPE[2], "mean": MEAN, "std": STD}
    (folder / "manifest.json").write_text(json.dumps({"input": spec, "labels": [f"class{i}" for i in range(7)]}))
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.ppm"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)).save(path)
    return path


def expected(bundle: Path, image: Path) -> list[tuple[int, float]]:
    pixels = np.asarray(Image.open(image))[None]
    scores = runtimes.adapter("reference").load(bundle, 1).run(normalise(pixels, MEAN, STD)).ravel()
    return [(int(index), pytest.approx(scores[index], rel=1e-5)) for index in np.argsort(-scores, kind="stable")]


@pytest.fixture(scope="module")
def top_k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ example, as CMake builds it with zig."""
    folder = tmp_path_factory.mktemp("build")
    cmake, ninja = (Path(sys.executable).with_name(tool) for tool in ("cmake", "ninja"))
    options = {
        "CMAKE_MAKE_PROGRAM": ninja,
        "CMAKE_TOOLCHAIN_FILE": ROOT / "runtimes" / "kernels" / "zig.cmake",
        "MSQ_TARGET": f"{platform.machine()}-linux-gnu.2.17",
        "MSQ_ZIG": Path(ziglang.__file__).parent / "zig",
    }
    arguments = [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run([cmake, "-S", ROOT / "examples/cpp", "-B", folder, "-G", "Ninja", *arguments], check=True)
    subprocess.run([cmake, "--build", folder], check=True)
    return folder / "top_k"


def test_the_cpp_example_prints_the_likeliest_classes(top_k: Path, bundle: Path, image: Path):
    numbers = [",".join(map(str, values)) for values in (MEAN, STD)]
    done = subprocess.run([top_k, bundle, image, str(K), *numbers], capture_output=True, text=True, check=True)
    found = [(int(index), float(score)) for index, score in map(str.split, done.stdout.splitlines())]
    assert found == expected(bundle, image)[:K]


def test_the_cpp_example_says_what_is_wrong_in_one_line(top_k: Path, bundle: Path, image: Path, tmp_path: Path):
    (tmp_path / "cut.ppm").write_bytes(image.read_bytes()[:-1])
    for folder, path, message in (
        (tmp_path, image, "model.json: No such file"),
        (bundle, tmp_path / "cut.ppm", "ends too early"),
        (bundle, bundle / "manifest.json", "not a binary PPM"),
    ):
        done = subprocess.run([top_k, folder, path, "1", "0,0,0", "1,1,1"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_python_example_prints_the_likeliest_classes(bundle: Path, image: Path):
    command = [sys.executable, ROOT / "examples" / "python" / "top_k.py", bundle, image]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [(name, float(score)) for _, name, score in lines] == [
        (f"class{index}", score) for index, score in expected(bundle, image)[:5]
    ]
