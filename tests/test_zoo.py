"""Every model of the zoo, from images to an integer model that every runtime and the oracle compute alike."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

import runtimes
from export.bundle import export
from msq.recipe import RecipeFile
from runtimes.native import NativeSession
from train.fit import train
from train.models import names

SHALLOW = {"deit-tiny": {"depth": 2}}
"""Options that make a model of many equal blocks quick to try."""
COMPILED = ("deit-tiny", "mobilenet-v3-large", "resnet8")
"""Models whose packed layers TVM compiles too, half a minute each; they have all operators among them."""


@pytest.mark.parametrize("name", names())
def test_every_model_trains_and_its_integers_agree_bit_for_bit(name: str, tmp_path: Path, write_images) -> None:
    write_images(tmp_path / "data", (32, 32, 3), {"train": 8, "test": 4}, labels=2, noise=120, apart=120)
    recipe = {
        "name": "tiny",
        "data": {"name": "image-folder", "path": str(tmp_path / "data")},
        "model": {"name": name, **SHALLOW.get(name, {})},
        "float": {"epochs": 1, "batch_size": 8, "learning_rate": 0.01},
        "method": {"name": "lsq", "epochs": 1},
        "budget": {"average_bits": 4},
        # Two steps on sixteen images leave no net whose ranges could be learned.
        "activations": {"range": "calibrated"},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    checkpoint = train(
        RecipeFile.read(tmp_path / "tiny.yaml"), tmp_path / "checkpoint", tmp_path / "work", Console(quiet=True)
    )
    assert checkpoint.average_bits == 4
    manifest = export(tmp_path / "checkpoint", tmp_path / "bundle", "onnxruntime")
    assert manifest.parity.max_lsb == 0
    images = np.random.default_rng(1).normal(0, 1, (3, 32, 32, 3)).astype(np.float32)
    session = NativeSession(tmp_path / "bundle")
    expected = runtimes.adapter("reference").load(tmp_path / "bundle", 1).tensors(images)
    for tensor, values in session.tensors(images).items():
        np.testing.assert_array_equal(values, expected[tensor], err_msg=tensor)
    np.testing.assert_array_equal(session.run(images), expected["output"])
    memory = session.memory()
    assert memory.arena <= 1.05 * memory.arena_bound
    packed = export(tmp_path / "checkpoint", tmp_path / "litert", "litert")
    assert packed.parity.max_lsb == 0
    np.testing.assert_array_equal(
        runtimes.adapter("litert").load(tmp_path / "litert", 2).run(images), expected["output"]
    )
    for runtime in ("tvm", "tvm-stock") if name in COMPILED else ("tvm",):
        assert export(tmp_path / "checkpoint", tmp_path / runtime, runtime).parity.max_lsb == 0
    stock = export(tmp_path / "checkpoint", tmp_path / "litert-stock", "litert-stock")
    assert stock.parity.max_lsb <= 1
    # Convolutions, linear layers, pools, products and tables are exact in LiteRT alone too.
    assert stock.parity.differing.keys() <= {"quantize", "add", "matmul", "layer_norm", "softmax"}
