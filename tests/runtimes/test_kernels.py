"""The packed kernels against the oracle: every tier that runs here, every width, sums and outputs bit for bit."""

import ctypes
import itertools
import mmap
import os
import pickle
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from devices.profile import profile
from devices.transports.emulator import Emulator
from msq.errors import BundleError, DeviceError
from msq.nodes import Add, Conv2d, Linear, MatMul, Multiply, Tensor, Weight
from runtimes import reference
from runtimes._kernels import KERNELS, Kernels, Layer, Threads, aligned, kernels

ROOT = Path(__file__).parents[2]


def tiers() -> list[str]:
    library, usable = kernels(), []
    for tier in library.built_tiers():
        try:
            library.use_tier(tier)
        except DeviceError:
            continue
        usable.append(tier)
    library.use_tier(None)
    return usable


def made_weight(rng: np.random.Generator, shape: tuple[int, ...], bits: int, doubled: bool, depthwise: bool) -> Weight:
    a, z = (2, 2**bits - 1) if doubled and 0 < bits < 8 else (1, 2**bits >> 1)
    codes = rng.integers(0, 1 << bits, shape).astype(np.uint8)
    if bits and rng.random() < 0.3:
        codes[...] = rng.choice([0, (1 << bits) - 1])  # the corners of the grid
    scale = rng.uniform(1e-4, 1e-2, shape[0]).astype(np.float32)
    weight = Weight.from_codes(codes, bits, a, z, scale, depthwise)
    packed = aligned(weight.packed.nbytes)[: weight.packed.nbytes]
    packed[:] = weight.packed
    return replace(weight, packed=packed)


@st.composite
def layers(draw):
    """A convolution, dense, grouped or depthwise, or a linear layer, with an input for it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = draw(st.integers(0, 8))
    doubled = draw(st.booleans())
    low, high = sorted(rng.integers(-128, 128, 2).tolist())
    zeros = rng.integers(-128, 128, 3).tolist()
    bias_of = lambda n: rng.integers(-(2**14), 2**14, n).astype(np.int32)  # noqa: E731
    grids = {"scale": float(np.float32(rng.uniform(0.01, 0.1)))}
    if draw(st.booleans()) and draw(st.booleans()):
        rows, inputs, outputs = draw(st.tuples(st.integers(1, 40), st.integers(1, 200), st.integers(1, 90)))
        weight = made_weight(rng, (outputs, inputs), bits, doubled, False)
        node = Linear("layer", ("x",), "y", "", weight, bias_of(outputs), (low, high))
        shape, out = (rows, inputs), (rows, outputs)
        x = rng.integers(-128, 128, shape).astype(np.int8)
        return (
            node,
            Tensor("x", shape, "int8", zero_point=zeros[0], **grids),
            Tensor("y", out, "int8", 0.05, zeros[1]),
            x,
            zeros[2],
        )
    kind = draw(st.sampled_from(["dense", "dense", "narrow", "grouped", "depthwise"]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 2), (7, 7)]))
    if kind == "depthwise":
        groups, inputs, outputs = (n := draw(st.integers(1, 70))), 1, n
    elif kind == "grouped":
        groups = draw(st.integers(2, 4))
        inputs, outputs = draw(st.integers(1, 9)), groups * draw(st.integers(1, 20))
    else:
        groups, inputs = 1, draw(st.sampled_from([1, 3, 4, 8, 12, 16, 30, 32, 64, 70]))
        outputs = draw(st.integers(1, 140))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]))
    if kind == "narrow":  # few outputs of lines that a tier may slide over, or whose codes are made together
        kernel, outputs = draw(st.sampled_from([(1, 3), (3, 3), (3, 3)])), draw(st.sampled_from([5, 16, 16, 32]))
        stride, dilation = (stride[0], 1), (dilation[0], 1)
    padding = draw(st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (3, 0, 2, 1)]))
    sizes = [(kernel[i] - 1) * dilation[i] + 1 + draw(st.integers(0, 9)) for i in (0, 1)]
    if kind == "narrow":
        sizes[1] += draw(st.integers(0, 40))
    batch = draw(st.integers(1, 4))
    weight = made_weight(rng, (outputs, *kernel, inputs), bits, doubled, kind == "depthwise")
    node = Conv2d("layer", ("x",), "y", "", weight, bias_of(outputs), stride, padding, dilation, groups, (low, high))
    height, width = (
        (sizes[i] + padding[i] + padding[i + 2] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1 for i in (0, 1)
    )
    shape = (sizes[0], sizes[1], inputs * groups)
    x = rng.integers(-128, 128, (batch, *shape)).astype(np.int8)
    return (
        node,
        Tensor("x", shape, "int8", zero_point=zeros[0], **grids),
        Tensor("y", (height, width, outputs), "int8", 0.05, zeros[1]),
        x,
        zeros[2],
    )


@pytest.mark.parametrize("tier", tiers())
@given(case=layers(), count=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_sums_and_outputs_are_the_oracle_s_bit_for_bit(tier, case, count):
    node, source, out, x, _ = case
    library = kernels()
    library.use_tier(tier)
    try:
        layer = Layer(node, source, out, library)
    finally:
        library.use_tier(None)
    threads = Threads(count, library)
    wanted_sums, wanted = expected(node, source, out, x)
    assert np.array_equal(layer.run(x, sums=True, threads=threads), wanted_sums)
    assert np.array_equal(layer.run(x, threads=threads), wanted)


def expected(node, source, out, x):
    """Return the sums as their formula reads, in wide integers, and what the oracle makes of the layer."""
    weights = node.weight.integers().astype(np.int64)
    centred = x.astype(np.int64) - source.zero_point
    if isinstance(node, Linear):
        sums = centred @ weights.T
    else:
        top, left, bottom, right = node.padding
        padded = np.pad(centred, ((0, 0), (top, bottom), (left, right), (0, 0)))
        height, width, outputs = out.shape
        sums = np.zeros((len(x), height, width, outputs), np.int64)
        per_group, inputs = outputs // node.groups, weights.shape[3]
        for ky in range(weights.shape[1]):
            for kx in range(weights.shape[2]):
                y0, x0 = ky * node.dilation[0], kx * node.dilation[1]
                view = padded[:, y0 :: node.stride[0], x0 :: node.stride[1]][:, :height, :width]
                for group in range(node.groups):
                    part = slice(group * per_group, (group + 1) * per_group)
                    taken = view[..., group * inputs : (group + 1) * inputs]
                    sums[..., part] += taken @ weights[part, ky, kx].T
    run = reference._linear if isinstance(node, Linear) else reference._conv2d
    return (sums + node.bias).astype(np.int32), run(node, [x], [source], out)


def examples(count: int) -> list:
    """Return as many cases as `layers` draws, the same ones every time."""
    found = []

    @given(case=layers())
    @settings(max_examples=count, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    def collect(case) -> None:
        found.append(case)

    collect()
    return found


def corners() -> list:
    """Return cases of the largest products: all weights at an end of their grid, all inputs at one of theirs."""
    rng, found = np.random.default_rng(0), []
    for bits, doubled, code, value in itertools.product(range(1, 9), (False, True), (0, 255), (-128, 127)):
        for depthwise in (False, True):
            weight = made_weight(rng, (16, 3, 3, 1 if depthwise else 16), bits, doubled, depthwise)
            codes = np.full(weight.shape, code & ((1 << bits) - 1), np.uint8)
            weight = Weight.from_codes(codes, bits, weight.a, weight.z, weight.scale, depthwise)
            groups = 16 if depthwise else 1
            node = Conv2d("layer", ("x",), "y", "", weight, np.zeros(16, np.int32), groups=groups)
            x = np.full((1, 5, 6, 16), value, np.int8)
            found.append((node, Tensor("x", (5, 6, 16), "int8", 0.05), Tensor("y", (3, 4, 16), "int8", 40.0), x, 0))
    return found


def residual(out, y, zero, seed):
    """Return an addition to a layer's result y, as a layer takes it, and what it makes."""
    rng = np.random.default_rng(seed)
    other = replace(out, name="other", scale=float(np.float32(rng.uniform(0.01, 0.1))), zero_point=zero)
    total = replace(out, name="total", scale=float(np.float32(rng.uniform(0.01, 0.2))), zero_point=-zero - 1)
    add = Add("add", ("y", "other"), "total", "", tuple(sorted(rng.integers(-128, 128, 2).tolist())))
    values = rng.integers(-128, 128, y.shape).astype(np.int8)
    return (add, values, other, total), reference._add(add, [y, values], [out, other], total)


def arithmetic() -> list:
    """Return additions and products, of tensors and of one code for all, with what the integer model makes of them."""
    rng, found = np.random.default_rng(0), []
    for count, ones in itertools.product((1, 15, 16, 100), ((), (0,), (1,), (0, 1))):
        operands = [rng.integers(-128, 128, 1 if at in ones else count).astype(np.int8) for at in range(2)]
        p, q, out = (
            Tensor(name, (count,), "int8", float(np.float32(rng.uniform(0.01, 0.2))), int(rng.integers(-128, 128)))
            for name in ("p", "q", "y")
        )
        clamp = tuple(sorted(rng.integers(-128, 128, 2).tolist()))
        for kind, oracle in ((Add, reference._add), (Multiply, reference._multiply)):
            node = kind(kind.kind, ("p", "q"), "y", "", clamp)
            found.append((node, operands, (p, q), out, oracle(node, operands, [p, q], out)))
    return found


def matrix_products() -> list:
    """Return products of matrices of codes, their corners too, with what the integer model makes of them."""
    rng, found = np.random.default_rng(1), []
    for batch, m, k, n in [(1, 1, 1, 1), (2, 7, 3, 17), (3, 13, 64, 64), (1, 30, 33, 70), (2, 50, 197, 130)]:
        for corner in (False, True):
            codes = (
                (lambda *shape: rng.choice([-128, 127], shape)) if corner else (lambda *s: rng.integers(-128, 128, s))
            )
            p, q = codes(batch, m, k).astype(np.int8), codes(batch, k, n).astype(np.int8)
            grids = tuple(
                Tensor(
                    name, codes.shape, "int8", float(np.float32(rng.uniform(0.01, 0.2))), int(rng.integers(-128, 128))
                )
                for name, codes in (("p", p), ("q", q))
            )
            grids = (grids[0], replace(grids[1], zero_point=0)) if m == 13 else grids
            out = Tensor(
                "y", (batch, m, n), "int8", float(np.float32(k * rng.uniform(0.01, 0.2))), int(rng.integers(-9, 9))
            )
            node = MatMul("matmul", ("p", "q"), "y", "", float(rng.uniform(0.1, 2)), (-128, int(rng.integers(90, 128))))
            found.append((node, p, q, grids, out, reference._matmul(node, [p, q], list(grids), out)))
    return found


@pytest.mark.parametrize("tier", tiers())
def test_products_of_matrices_are_the_oracle_s_and_touch_nothing_else(tier: str) -> None:
    kernels().use_tier(tier)
    for node, p, q, grids, out, wanted in matrix_products():
        for count in (1, 2):
            given_p, given_q, y = guarded(p.shape, np.int8), guarded(q.shape, np.int8), guarded(wanted.shape, np.int8)
            given_p[:], given_q[:] = p, q
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("runtimes._kernels.aligned", lambda size: guarded((size,), np.uint8, 64))
                kernels().matmul(node, given_p, given_q, grids, out, Threads(count), y)
            assert np.array_equal(y, wanted), (node, p.shape, q.shape)
    kernels().use_tier(None)


@pytest.mark.parametrize(
    ("inputs", "zero", "said"),
    [(33026, 0, "1 matrices, 1 × 33026 by 33026 × 1"), (4, 200, "a zero point or a limit of 200")],
)
def test_products_that_cannot_be_summed_are_refused(inputs: int, zero: int, said: str) -> None:
    p = np.zeros((1, 1, inputs), np.int8)
    grid = Tensor("p", p.shape, "int8", 1.0, zero)
    with pytest.raises(BundleError, match=said):
        kernels().matmul(MatMul("m", ("p", "q"), "y", ""), p, p.reshape(1, -1, 1), (grid, grid), grid)


@pytest.mark.parametrize("tier", tiers())
def test_sums_and_products_of_tensors_are_the_oracle_s(tier: str) -> None:
    kernels().use_tier(tier)
    for node, operands, grids, out, wanted in arithmetic():
        assert np.array_equal(kernels().combine(node, *operands, grids, out), wanted), node
    kernels().use_tier(None)


def test_a_zero_point_beyond_int8_is_refused() -> None:
    node, operands, (p, q), out, _ = arithmetic()[0]
    with pytest.raises(BundleError, match="a zero point or a limit of 200"):
        kernels().combine(node, *operands, (replace(p, zero_point=200), q), out)


def write_cases(folder: Path) -> None:
    """Write what on_board.py runs."""
    cases = []
    for node, source, out, x, zero in [*examples(80), *corners()]:
        sums, y = expected(node, source, out, x)
        cases.append((node, source, out, x, sums, y, *residual(out, y, zero, len(cases))))
    (folder / "cases.pickle").write_bytes(pickle.dumps((cases, arithmetic(), matrix_products())))


# No board of ours has the matrix instructions; a server's processor has.
@pytest.mark.parametrize(
    ("processor", "wanted"),
    [("cortex-a72", ["neon"]), ("cortex-a76", ["dotprod", "neon"]), ("neoverse-v1", ["i8mm", "dotprod", "neon"])],
)
def test_on_an_emulated_board_every_tier_gives_the_same_bits(processor: str, wanted: list[str], tmp_path: Path) -> None:
    write_cases(tmp_path)
    with closing(Emulator()) as device:
        device.prepare(profile("raspberrypi4").model_copy(update={"qemu_cpu": processor}), [])
        device.put(sorted((ROOT / "msq").glob("*.py")), PurePosixPath("msq"))
        device.put(sorted((ROOT / "runtimes").glob("*.py")), PurePosixPath("runtimes"))
        library = KERNELS / "aarch64" / "libmsq_kernels.so"
        device.put([Path(__file__).with_name("on_board.py"), tmp_path / "cases.pickle", library], PurePosixPath())
        done = device.run(["python3", "on_board.py"], 600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*wanted, "scalar"]


def test_no_calculation_is_undefined(tmp_path: Path) -> None:
    """A build that stops where one is; `make sanitize` looks for reads out of bounds too."""
    write_cases(tmp_path)
    (tmp_path / "libmsq_kernels.so").symlink_to(ROOT / "build" / "kernels" / "checked" / "libmsq_kernels.so")
    program = [sys.executable, str(Path(__file__).with_name("on_board.py"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == tiers()


@pytest.mark.parametrize("tier", tiers())
@given(case=layers(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_residual_addition_is_that_of_the_integer_model(tier, case, seed):
    node, source, out, x, zero = case
    added, wanted = residual(out, expected(node, source, out, x)[1], zero, seed)
    kernels().use_tier(tier)
    layer = Layer(node, source, out)
    kernels().use_tier(None)
    assert np.array_equal(layer.run(x, residual=added), wanted)


@pytest.mark.parametrize("tier", tiers())
@pytest.mark.parametrize(("grown", "fine"), [(1.0, True), (1.01, False)])
def test_residual_additions_are_exact_up_to_the_largest_ratio_and_no_further(tier, grown, fine):
    node, source, out = small()
    x = np.random.default_rng(1).integers(-128, 128, (3, 8)).astype(np.int8)
    y = expected(node, source, out, x)[1]
    total = replace(out, scale=float(np.float32(out.scale / 2**22)))
    other = replace(out, scale=float(np.float32(out.scale * grown)), zero_point=-128)
    add = Add("add", ("y", "other"), "total", "")
    # Of opposite signs, what is far beyond int8 cancels.
    values = np.clip(-128 - y + np.random.default_rng(2).integers(-1, 2, y.shape), -128, 127).astype(np.int8)
    kernels().use_tier(tier)
    layer = Layer(node, source, out)
    kernels().use_tier(None)
    if not fine:
        with pytest.raises(BundleError, match=r"in 0\.\.2\^22"):
            layer.run(x, residual=(add, values, other, total))
        return
    wanted = reference._add(add, [y, values], [out, other], total)
    assert np.array_equal(layer.run(x, residual=(add, values, other, total)), wanted)
    assert np.unique(wanted).size > 2


def guarded(shape: tuple[int, ...], dtype: type, alignment: int = 1) -> np.ndarray:
    """Return an array behind whose last byte (and up to alignment − 1 more) no memory can be touched."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    held = -(-size // alignment) * alignment
    pages = -(-held // mmap.PAGESIZE)
    room = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    whole = np.frombuffer(room, np.uint8)
    end = pages * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + end), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    return whole[end - held : end - held + size].view(dtype).reshape(shape)


@pytest.mark.parametrize("tier", tiers())
@given(case=layers(), count=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_nothing_behind_the_end_of_any_buffer_is_touched(tier, case, count):
    """Where it were, the process would die."""
    node, source, out, x, _ = case
    packed = guarded(node.weight.packed.shape, np.uint8, 64)
    packed[...] = node.weight.packed
    node = replace(node, weight=replace(node.weight, packed=packed))
    given_x, values, y = (
        guarded(x.shape, np.int8),
        *(guarded(expected(node, source, out, x)[1].shape, np.int8) for _ in "ry"),
    )
    given_x[...], values[...] = x, 1
    kernels().use_tier(tier)
    layer = Layer(node, source, out)
    kernels().use_tier(None)
    add = Add("add", ("y", "other"), "total", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtimes._kernels.aligned", lambda size: guarded((max(size, 1),), np.uint8, 64))
        layer.run(given_x, threads=Threads(count), out=y)
        assert np.array_equal(y, expected(node, source, out, x)[1])
        layer.run(given_x, threads=Threads(count), out=y, residual=(add, values, out, out))


def small(**changes) -> tuple[Linear, Tensor, Tensor]:
    rng = np.random.default_rng(0)
    weight = replace(made_weight(rng, (16, 8), 4, False, False), **changes)
    node = Linear("layer", ("x",), "y", "", weight, np.zeros(16, np.int32))
    return node, Tensor("x", (8,), "int8", 0.1), Tensor("y", (16,), "int8", 0.1)


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"bits": 3, "z": 4}, "packed weights of 256 bytes"),
        ({"bits": 9}, "9 bits is not in 0..8"),
        ({"z": 7}, r"1 · code − 7"),
        ({"shape": (16, 1 << 17)}, "overflow int32"),
        ({"shape": (0, 8)}, "0 outputs"),
        ({"depthwise": True}, "a depthwise layer of 16 outputs, 1 groups and 8 inputs"),
        ({"scale": np.full(16, np.inf, np.float32)}, "the scale of output 0 is inf"),
    ],
)
def test_a_layer_that_lies_is_refused_in_one_line(lie, said):
    with pytest.raises(BundleError, match=said):
        Layer(*small(**lie))


def test_packed_weights_at_an_odd_address_are_refused():
    packed = aligned(257)[1:]
    with pytest.raises(BundleError, match="lie 1 bytes behind a multiple of 64"):
        Layer(*small(packed=packed))


def test_an_input_that_the_kernel_does_not_fit_into_is_refused():
    rng = np.random.default_rng(0)
    node = Conv2d("c", ("x",), "y", "", made_weight(rng, (4, 3, 3, 4), 4, False, False), np.zeros(4, np.int32))
    layer = Layer(node, Tensor("x", (2, 2, 4), "int8"), Tensor("y", (0, 0, 4), "int8"))
    with pytest.raises(BundleError, match="3 × 3 does not fit into 2 × 2"):
        layer.run(np.zeros((1, 2, 2, 4), np.int8))


@pytest.mark.parametrize("scale", [0.0, np.inf, np.nan])
@pytest.mark.parametrize("kind", [Add, Multiply])
def test_arithmetic_on_scales_without_a_ratio_is_refused(kind, scale):
    node, codes = kind("n", ("p", "q"), "y", ""), np.zeros(4, np.int8)
    grid, out = Tensor("p", (4,), "int8", 0.1), Tensor("y", (4,), "int8", scale)
    with np.errstate(all="ignore"), pytest.raises(BundleError, match="scales whose ratio is"):
        kernels().combine(node, codes, codes, (Tensor("q", (4,), "int8", scale), grid), out)


@pytest.mark.parametrize("count", [0, -1, 1 << 20])
def test_a_number_of_threads_that_cannot_be_had_is_refused(count):
    with pytest.raises(BundleError, match="threads"):
        Threads(count)


@pytest.mark.parametrize("name", ["sse9", "neon"])
def test_a_tier_that_cannot_be_had_is_named_with_one_that_can(name):
    with pytest.raises(DeviceError, match=r"would do"):
        kernels().use_tier(name)
    program = "from runtimes._kernels import kernels; print(kernels().tier())"
    environment = {"MSQ_KERNELS_TIER": "scalar", "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "scalar\n"


def test_a_library_of_another_interface_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("runtimes._kernels.ABI", 99)
    with pytest.raises(DeviceError, match="interface version 3, wanted is 99"):
        Kernels(kernels().path)
    (tmp_path / "no.so").write_bytes(b"no library")
    with pytest.raises(DeviceError, match="not the packed kernels"):
        Kernels(tmp_path / "no.so")
