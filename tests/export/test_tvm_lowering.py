"""The TVM lowerings: every tensor is the oracle's bit for bit, on this machine and on an emulated board."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from chains import WHOLE, Chain, everything, transformer
from hypothesis import given, settings
from hypothesis import strategies as st

import runtimes
from devices.profile import profile
from devices.transports.emulator import Emulator
from export.lowerings import _tvm_library, _tvm_nodes, _tvm_operators, lowering, tvm, tvm_stock
from msq.errors import LoweringError, UsageError
from msq.integer_model import IntegerModel
from msq.nodes import NODES

RUNTIMES = ("tvm", "tvm-stock")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Libraries only for machines that a test names a processor of, and for this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tvm_library, "USUAL", ("x86-64",))
        yield


def write(chain: Chain, folder: Path, runtime: str, processors: tuple[str, ...] = ()) -> IntegerModel:
    folder.mkdir(exist_ok=True)
    model = chain.model().save(folder)
    lowering(runtimes.adapter(runtime).LOWERING).lower(model, folder, processors)  # type: ignore[call-arg]
    return model


def assert_equal_in_tvm(chain: Chain) -> None:
    """Compare every tensor with the oracle's."""
    with TemporaryDirectory() as name:
        for runtime in RUNTIMES:
            folder = Path(name, runtime)
            model = write(chain, folder, runtime)
            images = chain.images()
            oracle = runtimes.adapter("reference").load(folder, 1).tensors(images)
            session = runtimes.adapter(runtime).load(folder, 2)
            found = session.tensors(images)
            assert found.keys() == oracle.keys()
            for node in model.nodes:
                assert found[node.output].dtype == oracle[node.output].dtype
                differs = f"{runtime}: {node.kind} {node}"
                np.testing.assert_array_equal(found[node.output], oracle[node.output], err_msg=differs)
            np.testing.assert_array_equal(session.run(images), oracle["output"])


widths = st.integers(0, 8)


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(5, 9), st.integers(5, 9), st.integers(1, 4)),
    bits=st.tuples(*[widths] * 4),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    grouping=st.sampled_from(["plain", "grouped", "depthwise"]),
    pool=st.sampled_from(["average", "max", "none"]),
)
def test_every_tensor_of_a_net_is_the_oracle_s(seed, shape, bits, kernel, stride, dilation, padding, grouping, pool):
    chain = Chain(seed, shape)
    chain.conv(bits[0], 4)
    groups = {"plain": 1, "grouped": 2, "depthwise": 4}[grouping]
    chain.conv(bits[1], 4 if grouping == "depthwise" else 6, kernel, stride, padding, dilation, groups)
    left = chain.last
    chain.conv(bits[2], chain.shape[2])
    chain.add(left)
    chain.multiply(left)
    chain.lookup()
    if pool == "average":
        chain.average_pool()
    elif pool == "max" and min(chain.shape[:2]) > 1:
        chain.max_pool(2, 2, 1)
    chain.flatten()
    chain.linear(bits[3], 5)
    assert_equal_in_tvm(chain)


@pytest.mark.parametrize("kind", ["conv", "grouped", "depthwise", "linear"])
def test_every_width_gives_the_oracle_s_codes(kind: str):
    chain = Chain(7, (6, 5, 20))
    for bits in range(9):
        if kind == "linear":
            chain.tokens_linear(bits, 17 + bits % 3)
        else:
            chain.conv(bits, 20, groups={"conv": 1, "grouped": 4, "depthwise": 20}[kind])
    assert_equal_in_tvm(chain)


@pytest.mark.parametrize("seed", range(2))
def test_a_transformer_and_every_operation_give_the_oracle_s_codes(seed: int):
    assert_equal_in_tvm(transformer(seed))
    chain = everything(seed)
    assert {node.kind for node in chain.model().nodes} == NODES.keys()
    assert_equal_in_tvm(chain)


@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    other=st.integers(1, 30),
    data=st.data(),
)
def test_tokens_of_any_shape_give_the_oracle_s_codes(seed, shape, other, data):
    chain = Chain(seed, tuple(shape))
    chain.layer_norm()
    chain.softmax()
    chain.matmul(chain.last, chain.constant((*shape[:-2], shape[-1], other)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    whole, size = chain.last, chain.shape[axis]
    chain.cut(axis, data.draw(st.integers(0, size - 1)), size)
    chain.concat(whole, axis)
    chain.transpose(*data.draw(st.permutations(range(len(shape)))))
    assert_equal_in_tvm(chain)


@pytest.mark.parametrize("exponent", [-20, 20])
def test_ratios_far_from_one_saturate_as_the_oracle_says(exponent: int):
    chain = Chain(3, (4, 4, 5))
    first, scale = chain.last, 2.0**exponent
    chain._grid = lambda shape, _=None, make=chain._grid: make(shape, scale)  # type: ignore[method-assign]
    chain.add(first)
    chain.multiply(first)
    chain.conv(4, 5)
    chain.average_pool()
    assert_equal_in_tvm(chain)


def test_a_layer_does_the_addition_behind_it_where_nothing_else_needs_its_result():
    chain = Chain(0, (4, 4, 8))
    first = chain.last
    alone = chain.conv(3, 8)
    chain.add(first)
    used_twice = chain.conv(3, 8)
    chain.add(first)
    chain.multiply(used_twice)
    repeated = chain.average_pool()
    chain.conv(2, 8, (1, 1), padding=(0,) * 4)
    chain.add(first)
    sums = tvm._sums(chain.model())
    made_by = {node.output: node.name for node in chain.model().nodes}
    assert [layer for layer, _ in sums.values()] == [made_by[alone]]
    assert repeated in made_by


@pytest.mark.parametrize("processor", ["x86-64-v3", "aarch64", "cortex-a76"])
def test_no_product_is_contracted_with_a_sum(processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """TVM lets LLVM do so; the oracle rounds both. What is compiled for this test is seen to be able to."""
    chain = Chain(0, (4, 16))
    chain.layer_norm()
    target = _tvm_library.PROCESSORS[processor]

    def compiled() -> str:
        made, _ = _tvm_nodes.module(chain.model().save(tmp_path), 4096, tvm.PackedLayers(chain.model()))
        return str(_tvm_library.compiled(made, target).mod.imports[0].inspect_source("asm"))

    contracted = re.compile(r"\b(v?fn?m(add|sub)\w*|fml[as])\b")
    assert not contracted.search(compiled())
    monkeypatch.setattr(_tvm_operators, "_apart", lambda product: product)
    assert contracted.search(compiled())


def test_a_library_for_another_processor_is_refused_by_name(tmp_path: Path):
    model = transformer().model().save(tmp_path)
    with pytest.raises(UsageError, match="unknown processor 'cortex-a7'") as caught:
        tvm.lower(model, tmp_path, ("cortex-a7",))
    assert "cortex-a7" in caught.value.hint
    with pytest.raises(UsageError, match="two processors of the machine aarch64"):
        tvm.lower(model, tmp_path, ("cortex-a72", "cortex-a76"))
    assert not list(tmp_path.glob("*.so"))


def test_a_bundle_has_the_library_of_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_tvm_library, "USUAL", ("x86-64", "aarch64"))
    model = heavy(2).model().save(tmp_path)
    for processor in ("x86-64-v3", "cortex-a78ae"):
        written = tvm_stock.lower(model, tmp_path, (processor,))
        assert sorted(written) == ["model-aarch64.so", "model-x86_64.so", "steps.json"]
        assert all((tmp_path / name).is_file() for name in (*written, *tvm_stock.DEPLOYED))


def test_without_the_kernels_the_hint_says_how_they_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_tvm_library, "KERNELS", tmp_path / "lib")
    model = transformer().model().save(tmp_path)
    with pytest.raises(LoweringError, match=r"libmsq_tvm\.a: no such file") as caught:
        tvm.lower(model, tmp_path)
    assert caught.value.hint == "make kernels"
    tvm_stock.lower(model, tmp_path)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path):
    for runtime in RUNTIMES:
        for name in ("first", "second"):
            write(everything(), tmp_path / name, runtime)
        first, second = (tmp_path / name / "model-x86_64.so" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def heavy(bits: int) -> Chain:
    chain = Chain(3, (16, 16, 8))
    chain._clamp = lambda: WHOLE  # type: ignore[method-assign]
    chain.conv(bits, 64)
    chain.conv(bits, 64, stride=(2, 2))
    chain.flatten()
    chain.linear(bits, 512)
    return chain


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("make", [transformer, everything, lambda: heavy(3)])
def test_files_are_as_large_as_bits_parameters_and_code_say(make: Callable[[], Chain], runtime: str, tmp_path: Path):
    model = write(make(), tmp_path, runtime, ("aarch64",))
    target = lowering(runtimes.adapter(runtime).LOWERING)
    size = sum((tmp_path / name).stat().st_size for name in target.DEPLOYED)
    assert size <= 1.02 * target.content_bytes(model) + 32 * 1024


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_packed_weights_stay_in_their_file(runtime: str, tmp_path: Path):
    write(heavy(8), tmp_path, runtime)
    program = f"""if True:
        from pathlib import Path
        import numpy as np, runtimes
        def anonymous():
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous"))
        adapter = runtimes.adapter({runtime!r})
        adapter.version()
        before = anonymous()
        adapter.load(Path({str(tmp_path)!r}), 1).run(np.zeros((1, 16, 16, 8), np.float32))
        print(anonymous() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (tmp_path / "weights.bin").stat().st_size > 2 << 20
    assert int(done.stdout) < 1 << 20


def test_on_an_emulated_board_every_operation_gives_the_same_bits(tmp_path: Path):
    long = Chain(5, (64, 96))
    long.layer_norm()  # where a product and a sum would be contracted, one in some hundred codes differs
    bundles = [
        ("tvm", everything(), "cortex-a72"),
        ("tvm-stock", everything(), "aarch64"),
        ("tvm.norm", long, "aarch64"),
    ]
    with closing(Emulator()) as device:
        device.prepare(profile("raspberrypi4"), runtimes.adapter("tvm").PACKAGES)
        device.put(sorted((ROOT / "msq").glob("*.py")), PurePosixPath("msq"))
        device.put(sorted((ROOT / "runtimes").glob("*.py")), PurePosixPath("runtimes"))
        device.put([ROOT / "tests" / "runtimes" / "tvm_on_board.py"], PurePosixPath())
        for name, chain, processor in bundles:
            folder = tmp_path / f"bundle-{name}"
            write(chain, folder, name.partition(".")[0], (processor,))
            images = chain.images()
            oracle = runtimes.adapter("reference").load(folder, 1).tensors(images)
            np.savez(folder / "oracle.npz", images=images, **oracle)
            device.put(sorted(folder.iterdir()), PurePosixPath(folder.name))
        done = device.run(["python3", "tvm_on_board.py"], 600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(f"bundle-{name}" for name, *_ in bundles)
