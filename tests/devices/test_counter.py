"""The counting board against a program whose instructions can be counted by hand."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path, PurePosixPath

from devices.counter import Counter, counts
from devices.profile import profile

# Between the marks (124 is sched_yield): one instruction before the loop, 4 a round, and the second mark's two.
PROGRAM = """
.globl counted
counted:
    mov x8, #124
    svc #0
    mov x1, #1000
1:  smull v0.8h, v1.8b, v2.8b
    mul x2, x2, x2
    subs x1, x1, #1
    b.ne 1b
    mov x8, #124
    svc #0
    ret
"""


def test_instructions_are_counted_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "counted.S").write_text(PROGRAM)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.17", "-shared", "-nostdlib"]
    subprocess.run([*command, "counted.S", "-o", "counted.so"], cwd=tmp_path, check=True)
    with closing(Counter()) as board:
        board.prepare(profile("raspberrypi4"), [])
        board.put([tmp_path / "counted.so"], PurePosixPath())
        done = board.run(["python3", "-c", "import ctypes; ctypes.CDLL('./counted.so').counted()"], 60)
    assert done.returncode == 0, done.stderr
    assert counts(done.stderr) == [(1 + 4 * 1000 + 2, 1000)]
