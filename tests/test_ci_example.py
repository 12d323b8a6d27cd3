"""The example for build servers, command by command, does what it says; `${{ … }}` and shell variables filled in."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import yaml

EXAMPLE = Path(__file__).parents[1] / "examples" / "ci" / "github-actions.yml"
DEVICE = "local"


def commands() -> list[str]:
    """The msq commands of the example, for one device of its matrix."""
    steps = yaml.safe_load(EXAMPLE.read_text())["jobs"]["deploy"]["steps"]
    lines = [step["run"].replace("${{ matrix.device }}", DEVICE) for step in steps if "run" in step]
    assert not any("${{" in line for line in lines)
    return [line for line in lines if re.search(r"\bmsq ", line)]


def test_its_commands_train_export_verify_measure_and_report(recipe: Path, tmp_path: Path):
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "RECIPE": str(recipe),
        "CHECKPOINT": "build/checkpoint",
    }
    found = commands()
    assert [re.search(r"\bmsq (\w+)", line)[1] for line in found] == ["train", "export", "verify", "measure", "report"]  # type: ignore[index]
    for line in found:
        done = subprocess.run(["bash", "-ec", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    suites = ElementTree.parse(tmp_path / "build" / f"{DEVICE}.xml").getroot()
    assert {case.get("name") for case in suites.iter("testcase")} >= {"bit_exact"}
    assert (tmp_path / "build" / f"{DEVICE}.md").read_text().startswith("#")
