"""Files of others that ours are measured beside: fetched from their public source, or put into the cache by hand."""

from dataclasses import dataclass
from pathlib import Path

from msq.cache import cache_folder
from msq.checksums import sha256_of
from msq.errors import DataError
from train.data.fetch import fetch


@dataclass(frozen=True)
class Peer:
    """A file of a public repository, at one of its commits."""

    address: str
    sha256: str

    def path(self) -> Path:
        """Return the file in the cache, fetched if it is not there.

        Raises:
            DataError: it cannot be fetched, or is another file; the hint says where to put it.
        """
        path = cache_folder("peers", self.address.rsplit("/", 1)[1])
        if not path.is_file():
            try:
                fetch(self.address, path, self.sha256)
            except DataError as error:
                raise DataError(str(error), hint=f"{error.hint}; or put the file there: {path}") from None
        if (found := sha256_of(path)) != self.sha256:
            raise DataError(
                f"{path}: sha256 is {found[:12]}…, expected {self.sha256[:12]}…", hint=f"see {self.address}"
            )
        return path


MLPERF_TINY_RESNET8 = Peer(
    "https://raw.githubusercontent.com/mlcommons/tiny/1afd2c9820f795965a6134facd0b4dfae41ef23f"
    "/benchmark/training/image_classification/trained_models/pretrainedResnet_quant.tflite",
    "3c002613d1b2475eb51dd78dfb85a546c8ae658dee71cf6ade43b022fe205415",
)
"""MLPerf Tiny's image classification, int8, as its reference submission runs it (Apache 2.0)."""
