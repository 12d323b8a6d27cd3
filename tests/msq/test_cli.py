"""Bad input gets one clear line, a hint and an exit code; no traceback reaches the user."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msq.cli import main

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / "recipes" / "fashion-resnet8.yaml"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Return the exit code and what was said on stderr."""
    sys.argv = ["msq", *map(str, arguments)]
    try:
        main()
        code: object = 0
    except SystemExit as stop:
        code = stop.code or 0
    assert isinstance(code, int)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, said


@pytest.fixture(autouse=True)
def own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for index in range(3):
                Image.fromarray(np.full((8, 8), 40 * index, np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "images"


def recipe(tmp_path: Path, images: Path, **changed: object) -> Path:
    text = {
        "name": "small",
        "data": {"name": "image-folder", "path": str(images), "height": 8, "width": 8, "channels": 1},
        "model": {"name": "resnet8"},
        "method": {"name": "msq"},
        "budget": {"average_bits": 3},
    } | changed
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(text))
    return path


def train(tmp_path: Path, path: Path) -> tuple[object, ...]:
    return ("train", path, "--out", tmp_path / "out", "--work", tmp_path / "work")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--device", "rasberrypi"), "did you mean 'raspberrypi'"),
        (("--runtime", "onnx-runtime"), "did you mean 'onnxruntime'"),
    ],
)
def test_an_unknown_device_or_runtime_is_named_with_the_nearest(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], named: str
) -> None:
    code, said = run(capsys, "check", DEFAULT, *arguments)
    assert code == 2
    assert arguments[1] in said
    assert named in said


@pytest.mark.parametrize("device", ["vm:android", "adb:SERIAL"])
def test_a_runtime_that_a_phone_cannot_have_is_refused_before_any_training(capsys, device: str) -> None:
    code, said = run(capsys, "check", DEFAULT, "--device", device)
    assert code == 10
    assert "has no Python" in said and "native" in said
    assert run(capsys, "check", DEFAULT, "--device", device, "--runtime", "native")[0] == 0


def test_an_unknown_recipe_key_is_named_with_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(DEFAULT.read_text() + "\nsede: 1\n")
    code, said = run(capsys, "check", path)
    assert code == 3
    assert f"wrong.yaml:{len(path.read_text().splitlines())}: sede: unknown key" in said


def test_an_unknown_option_of_the_method_is_named_with_its_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(DEFAULT.read_text().replace("prune_epochs", "prune_epoch"))
    line = 1 + [text.strip().startswith("prune_epoch:") for text in path.read_text().splitlines()].index(True)
    code, said = run(capsys, *train(tmp_path, path))
    assert code == 3
    assert f"wrong.yaml:{line}: method.prune_epoch: unknown key" in said


@pytest.mark.parametrize(("representation", "least"), [("sign_magnitude", "2.00"), ("offset", "1.00")])
def test_a_budget_below_one_bit_a_layer_is_refused_before_any_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path, representation: str, least: str
) -> None:
    method = {"name": "msq", "representation": representation}
    path = recipe(tmp_path, images, budget={"average_bits": 0.9}, method=method)
    code, said = run(capsys, *train(tmp_path, path))
    assert code == 4
    assert f"0.90 bits a weight is below {least} bits a weight" in said
    assert not (tmp_path / "work").exists()


def test_a_run_can_start_from_the_bit_map_that_another_run_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path
) -> None:
    short = {"float": {"epochs": 1, "batch_size": 2}}
    first = recipe(
        tmp_path, images, method={"name": "msq", "prune_epochs": 1, "finetune_epochs": 1, "interval": 1}, **short
    )
    assert run(capsys, *train(tmp_path, first))[0] == 0
    bits = tmp_path / "bits.json"
    sys.argv = ["msq", "bits", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main()
    bits.write_text(capsys.readouterr().out)
    wanted = json.loads(bits.read_text())["bits"]
    assert min(wanted.values()) < max(wanted.values())
    method = {"name": "lsq", "bit_map": str(bits), "epochs": 1}
    assert run(capsys, *train(tmp_path, recipe(tmp_path, images, method=method, **short)))[0] == 0
    sites = json.loads((tmp_path / "out" / "checkpoint.json").read_text())["sites"]
    assert {site["name"]: site["bits"] for site in sites} == wanted


def test_a_bit_map_of_another_model_names_the_nearest_layer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path
) -> None:
    bits = tmp_path / "bits.json"
    bits.write_text(json.dumps({"schema_version": 1, "granularity": "per_channel", "bits": {"stage1.0.convv1": 4}}))
    path = recipe(tmp_path, images, method={"name": "lsq", "bit_map": str(bits)})
    code, said = run(capsys, *train(tmp_path, path))
    assert code == 3
    assert "names stage1.0.convv1, which the model does not have" in said
    assert "did you mean stage1.0.conv1?" in said


def test_an_unreadable_image_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path) -> None:
    bad = images / "train" / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:20])
    code, said = run(capsys, *train(tmp_path, recipe(tmp_path, images)))
    assert code == 5
    assert str(bad) in said


def test_weights_that_are_none_are_refused_before_any_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path
) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"no weights")
    path = recipe(tmp_path, images, init=str(weights))
    code, said = run(capsys, *train(tmp_path, path))
    assert code == 6
    assert "weights.pt: cannot be read as weights" in said
    assert not (tmp_path / "work").exists()


def test_a_bundle_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = run(capsys, "measure", tmp_path, "--evaluation", tmp_path, "--out", tmp_path / "m.json")
    assert code == 8
    assert "manifest.json: no such file" in said


def test_make_says_the_same_line_and_fails() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "check", "DEVICE=toaster"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "error: unknown device 'toaster'" in done.stderr
    assert "Traceback" not in done.stderr
