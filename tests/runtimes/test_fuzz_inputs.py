"""What the fuzz targets (tests/fuzz) make of their seeds and of inputs that a fuzzer found, on a build that stops where
a calculation is undefined. A target checks what must hold of every input, and stops where it does not."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.seeds import seeds

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(os.environ.get("MSQ_FUZZ_PROGRAMS", ROOT / "build" / "kernels" / "checked"))
CORPUS = Path(__file__).with_name("corpus")
TARGETS = ("flexbuffer", "json", "layer", "manifest", "model", "npy")
MOST_DEPTH = 32


def replay(target: str, files: list[Path]) -> Iterator[tuple[Path, int, str]]:
    """Yield file, status (0: taken) and message of each."""
    done = subprocess.run([PROGRAMS / f"fuzz-{target}", *files], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    lines = done.stdout.decode(errors="replace").split("\n")[:-1]
    for file, line in zip(files, lines, strict=True):
        path, status, message = line.split("\t")
        assert Path(path) == file
        yield file, int(status), message


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all seeds, in one for each target."""
    folder = tmp_path_factory.mktemp("seeds")
    for target, name, content in seeds():
        (folder / target).mkdir(exist_ok=True)
        (folder / target / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_right_is_taken(target: str, seeded: Path):
    results = list(replay(target, sorted((seeded / target).iterdir())))
    assert [(file.name, message) for file, status, message in results if status] == []


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_fuzzer_found_is_taken_or_refused_in_one_line(target: str):
    for _, status, message in replay(target, sorted((CORPUS / target).glob("*"))):
        assert (status == 0) == (message == "")


def accepts(text: bytes) -> bool:
    """Say what Python's reader makes of a text."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        # A long whole number is as good as a short one; NaN and Infinity are no JSON.
        json.loads(text.decode(), parse_int=float, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def test_the_json_reader_takes_what_python_s_takes(seeded: Path):
    files = [file for folder in (seeded, CORPUS) for name in ("json", "manifest") for file in (folder / name).iterdir()]
    taken = 0
    for file, status, message in replay("json", sorted(files)):
        if message.endswith("too much within one another"):  # is refused here alone
            assert file.read_bytes().count(b"[") + file.read_bytes().count(b"{") > MOST_DEPTH
            continue
        assert accepts(file.read_bytes()) == (status == 0), (file, message)
        taken += status == 0
    assert taken > 0
