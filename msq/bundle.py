"""The bundle: what export hands to a runtime and a device. A folder, and the same as a .tar beside it.

manifest.json     this schema, with the sha256 of every other file
model.json        the integer model's graph, and weights.bin its packed weights, scales and biases
model.onnx …      the model file of the bundle's runtime; it refers to weights.bin where the format allows
golden.npz        "input" float32 (n, h, w, c); "oracle/<tensor>" for every int8 tensor and the output;
                  "host/<tensor>" only for tensors in which the host's runtime differs from the oracle
host-predictions.npy  the class that the exporting host's runtime gives each test image, int64 (n,)
labels.json       class names
MODEL_CARD.md     what the model is, for people
manifest.sig      where it is signed: see msq.signature
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from msq.artefact import Artefact, Strict
from msq.checkpoint import Accuracy, DataId, EpochRecord, InputSpec
from msq.checksums import verify_files

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.sig"
GOLDEN_FILE = "golden.npz"
HOST_PREDICTIONS_FILE = "host-predictions.npy"
LABELS_FILE = "labels.json"
CARD_FILE = "MODEL_CARD.md"


class Layer(Strict):
    """One weighted layer as it is stored."""

    name: str
    op: Literal["conv2d", "linear"]
    shape: tuple[int, ...]
    weights: int
    bits: int = Field(ge=0, le=8)
    paper_bits: int = Field(ge=0, le=8)
    packed_bytes: int
    """Bytes in weights.bin, the layout's filling included."""
    beta: float | None = None
    omega: float | None = None


class Sizes(Strict):
    """Bytes. The bar is model_bytes ≤ limit_bytes = 1.02 · (weight_bytes + parameter_bytes) + 32 KiB.

    A format without a layer's width takes the next wider one into that sum, one of machine code the code.
    """

    weight_bytes: int
    """Σ bits · weights / 8, rounded up: what the bits say."""
    parameter_bytes: int
    """Scales and biases."""
    model_bytes: int
    """What the runtime loads: model file and weights file."""
    limit_bytes: int
    float32_bytes: int
    """The same model's weights and biases in float32."""
    int8_bytes: int
    """The same at one byte a weight, with scales and biases."""
    resident_weight_bytes: int
    """What the runtime holds of the weights after loading; see resident_note."""
    resident_note: str


PartKind = Literal["weights", "parameters", "alignment", "graph", "code"]


class Part(Strict):
    """Bytes of a file that a runtime loads. What a layer has besides weights are parameters: scales, biases, tables."""

    file: str
    what: PartKind
    layer: str = ""
    """Of a layer's own; empty for what belongs to none."""
    bytes: int


class Fidelity(Strict):
    """How two ways of running a model compare over evaluation images: the integer model and the trained program, …"""

    images: int
    agreeing: int
    """Images for which both give the same class."""
    max_lsb: int
    """Largest difference of an output, in steps of the output's grid."""


class Parity(Strict):
    """How the runtime on the exporting host compares with the oracle over all golden tensors."""

    tensors: int
    values: int
    max_lsb: int
    differing: dict[str, int] = {}
    """Operator kind → largest difference in LSB, for operators that are not bit-exact on the host."""
    whole: Fidelity | None = None
    """The whole model beside the oracle, where the runtime rounds in its own way and operators are compared singly."""


class Arena(Strict):
    """Activations and workspace of a runtime that plans them in one block of memory, in bytes."""

    bytes: int
    bound_bytes: int
    """The largest sum of what must be kept at once: no plan takes less."""
    timeline: dict[str, int]
    """Node → bytes in use while it runs, in the order of running."""


class Manifest(Artefact):
    """manifest.json of a bundle."""

    name: str
    lowering: str
    """The format of the model file, a file of export/lowerings: what a runtime says it reads."""
    model: str
    method: str
    input: InputSpec
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    average_bits: float
    budget_bits: float | None = None
    paper_compression: float | None
    sizes: Sizes
    good_for: tuple[str, ...] = ()
    """Runtimes, with their releases, that the model file is known to run in; empty where the format says it all."""
    audit: tuple[Part, ...] = ()
    """What each byte of the deployed files is."""
    parity: Parity
    arena: Arena | None = None
    """Where the runtime plans one."""
    fidelity: Fidelity | None = None
    """The integer model, run by the oracle, beside the trained program."""
    accuracy: tuple[Accuracy, ...]
    history: tuple[EpochRecord, ...]
    data: DataId
    seed: int
    training_seconds: float
    checkpoint_sha256: str
    versions: dict[str, str]
    files: dict[str, str]

    @property
    def net(self) -> Accuracy | None:
        """The accuracy of what is deployed; where only training looked, the trained net's; None where nobody did."""
        found = {accuracy.what: accuracy for accuracy in self.accuracy if accuracy.n}
        return found.get("deployed") or found.get("trained")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read manifest.json of a folder and verify every file it lists. Raises BundleError."""
        manifest = cls.read(folder / MANIFEST_FILE)
        verify_files(folder, manifest.files)
        return manifest
