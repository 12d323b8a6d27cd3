"""Settings, and the smallest real recipe, that all tests share."""

from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests measure is kept apart from what the checkout's user did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSQ_STORE", str(tmp_path_factory.mktemp("store") / "store.db"))
        yield


@pytest.fixture(scope="session")
def write_images() -> Callable[..., None]:
    """Return a function that writes an image folder of noise, each class brighter than the one before."""

    def write(data: Path, shape: tuple[int, ...], counts: dict[str, int], labels: int, noise: int, apart: int) -> None:
        random = np.random.default_rng(0)
        for part, count in counts.items():
            for label in range(labels):
                folder = data / part / f"class{label}"
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = random.integers(0, noise, shape) + apart * label
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")

    return write


@pytest.fixture
def recipe(tmp_path: Path, write_images: Callable[..., None]) -> Path:
    """Three classes of small images that a net can tell apart."""
    write_images(tmp_path / "data", (8, 8), {"train": 24, "test": 8}, labels=3, noise=80, apart=60)
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(path=tmp_path / "data"))
    return path
