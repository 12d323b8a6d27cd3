"""Settings, and the smallest real recipe, that all tests share."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# A first call loads libraries; how long an example takes says nothing about what it checks.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

RECIPE = """\
name: tiny
data: {{name: image-folder, path: {path}, height: 8, width: 8, channels: 1}}
model: {{name: resnet8}}
float: {{epochs: 2, batch_size: 8, learning_rate: 0.05}}
method: {{name: msq, prune_epochs: 3, finetune_epochs: 1, interval: 4, hessian_batch: 8}}
budget: {{average_bits: 3}}
seed: 3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Three classes of small images that a net can tell apart."""
    random = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        for label in range(3):
            folder = tmp_path / "data" / part / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 80, (8, 8)) + 60 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(path=tmp_path / "data"))
    return path
