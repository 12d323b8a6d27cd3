"""The checkpoint: what training hands to export. A folder that needs no model code to be read.

checkpoint.json         this schema
program.pt2             torch.export program of the trained net in eval mode, NCHW float32 input, dynamic batch.
                        Batch norms are still there. Activation quantizers are calls of
                        aten.fake_quantize_per_tensor_affine; weights are the parameters named in `sites`.
tensors.safetensors     per site "<name>.codes" (uint8, torch's OIHW or OI) and "<name>.scale" (float32, (O,))
evaluation/images.npy   the test images, uint8 (N, height, width, channels), before preprocessing
evaluation/labels.npy   int64 (N,)
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from msq.artefact import Artefact, Strict
from msq.checksums import verify_files

CHECKPOINT_FILE = "checkpoint.json"
PROGRAM_FILE = "program.pt2"
TENSORS_FILE = "tensors.safetensors"
IMAGES_FILE = "evaluation/images.npy"
LABELS_FILE = "evaluation/labels.npy"

Representation = Literal["sign_magnitude", "offset", "twos_complement"]


class Framing(Strict):
    """How an image of any size becomes the model's height × width; msq.framing does it.

    short: pixels that the short side is scaled to, before the centre is cut out; None: the centre of the model's
    proportions, as large as can be, is cut out and scaled. upright: first it is turned as its EXIF orientation says.
    """

    short: int | None = Field(None, ge=1)
    resampling: Literal["bilinear", "bicubic"] = "bilinear"
    upright: bool = False


class InputSpec(Strict):
    """What the model eats: x = (pixel / 255 − mean[c]) / std[c] in float32, of uint8 (h, w, c) images."""

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: int = Field(ge=1)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    framing: Framing | None = None
    """None: images come in the model's size."""

    def pixel_range(self) -> tuple[float, float]:
        """Return the least and the greatest value that x can take."""
        lows = [(0 - mean) / std for mean, std in zip(self.mean, self.std, strict=True)]
        highs = [(1 - mean) / std for mean, std in zip(self.mean, self.std, strict=True)]
        return min(lows), max(highs)


class Site(Strict):
    """One quantized layer.

    bits is the stored width, sign included; paper_bits leaves the sign out, as the papers count. beta is the
    share of weights whose low bits were not empty when it was last looked at, omega the layer's sensitivity.
    """

    name: str
    """Path of the module in the user's model."""
    op: Literal["conv2d", "linear"]
    parameter: str
    """Name of the weight in the program's state."""
    shape: tuple[int, ...]
    bits: int = Field(ge=0, le=8)
    paper_bits: int = Field(ge=0, le=8)
    a: int
    z: int
    granularity: Literal["per_channel", "per_tensor"]
    representation: Representation
    beta: float | None = None
    omega: float | None = None


class Accuracy(Strict):
    """correct of n test images; what says which net, evaluated in which way.

    float, ptq8 and trained are nets of the training framework; deployed is the integer model made of the last one, run
    by the bundle's runtime on the exporting host.
    """

    what: Literal["float", "ptq8", "trained", "deployed"]
    correct: int
    n: int

    @property
    def top1(self) -> float:
        """The fraction that is right."""
        return self.correct / self.n


class EpochRecord(Strict):
    """One epoch of training: the mean loss, the accuracy where it was measured, and the bits of every site."""

    phase: str
    epoch: int
    loss: float
    average_bits: float
    bits: dict[str, int] = {}


class PhaseRecord(Strict):
    """What a phase of training took, on the machine that trained."""

    name: str
    steps: int
    seconds: float
    """Wall time of its epochs."""
    step_ms: float | None
    """Median milliseconds of a step, each stretch of up to 50 steps counted as their mean; null without steps."""
    peak_memory: int
    """Most bytes of memory that the process had held when the phase ended."""
    peak_device_memory: int | None = None
    """Most bytes that it had allocated on its GPU; null without one."""


class DataId(Strict):
    """Which data a model was trained and tested on.

    The digest is over the decoded images and labels or, of data too large to be decoded at once, over the names and
    sizes of the files.
    """

    name: str
    sha256: str
    train: int
    test: int


class Checkpoint(Artefact):
    """checkpoint.json. files maps every other file of the folder to its sha256."""

    recipe: str
    recipe_sha256: str
    model: str
    method: str
    input: InputSpec
    labels: tuple[str, ...]
    sites: tuple[Site, ...]
    activation_bits: int
    average_bits: float
    """Stored bits a weight, sign included, over all sites."""
    budget_bits: float | None = None
    """The budget that it was trained to."""
    paper_compression: float | None
    """32 · weights / Σ paper bits, as the papers report it; null when no bit is left."""
    accuracy: tuple[Accuracy, ...]
    history: tuple[EpochRecord, ...]
    data: DataId
    golden: int
    """How many test images the bundle keeps as golden vectors."""
    seed: int
    phases: tuple[PhaseRecord, ...]
    """All training that led here; weights that were given took none."""
    versions: dict[str, str]
    files: dict[str, str]

    @property
    def seconds(self) -> float:
        """Wall time of all training that led here."""
        return sum(phase.seconds for phase in self.phases)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read checkpoint.json of a folder and verify every file it lists. Raises BundleError."""
        checkpoint = cls.read(folder / CHECKPOINT_FILE)
        verify_files(folder, checkpoint.files)
        return checkpoint
