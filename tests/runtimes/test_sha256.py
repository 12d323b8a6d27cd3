"""msq-run's SHA-256, by the processor's instructions and without, beside Python's."""

import ctypes
import hashlib
import platform
import subprocess
import sys

import numpy as np
import pytest

from runtimes._kernels import KERNELS

SOURCES = [KERNELS.parents[1] / "executor" / name for name in ("sha256.c", "sha256_instructions.c")]
FLAGS = {"x86_64": ["-mcpu=baseline", "-msha", "-msse4.1"], "aarch64": ["-mcpu=generic+sha2"]}


@pytest.fixture(scope="module", params=["portable", "instructions"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("sha256") / "sha256.so"
    flags = FLAGS[platform.machine()] if request.param == "instructions" else ["-mcpu=baseline"]
    command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", *flags, *SOURCES, "-o", path]
    subprocess.run([str(each) for each in command], check=True)
    loaded = ctypes.CDLL(str(path))
    loaded.msq_sha256_instructions.restype = ctypes.c_void_p
    assert request.param == "instructions" or not loaded.msq_sha256_instructions()
    return loaded


def test_every_length_around_a_block_has_python_s_digest(library: ctypes.CDLL):
    data = np.random.default_rng(0).bytes(100_003)
    for size in [*range(200), 4095, 4096, 100_003]:
        hexadecimal = ctypes.create_string_buffer(65)
        library.msq_sha256(data[:size], ctypes.c_size_t(size), hexadecimal)
        assert hexadecimal.value.decode() == hashlib.sha256(data[:size]).hexdigest(), size
