"""Recipes: one YAML file per deployable model, from the data it learns on to the gates it must pass."""

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from msq.artefact import Strict
from msq.errors import RecipeError

Model = TypeVar("Model", bound=BaseModel)

_MOVED = {"float.checkpoint": "is now the key init, at the top level of the recipe"}
"""Keys that older recipes have."""


class Section(BaseModel):
    """A section naming a plug-in; its other keys are the plug-in's options, checked by the plug-in's schema."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `name`."""
        return dict(self.model_extra or {})


class FloatRun(Strict):
    """The float training that MSQ starts from, and that is the report's baseline.

    learning_rate is the peak of a one-cycle schedule.
    """

    epochs: int | None = Field(None, ge=0)
    """Default: 4, or none where the recipe's `init` gives weights, which are then used as they are."""
    batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(0.4, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class LatencyBudget(Strict):
    """ms: most milliseconds of all layers together, by a table of milliseconds for every layer and stored width."""

    ms: float = Field(gt=0)
    table: Path


class Budget(Strict):
    """What the deployed weights may take, in one of three units.

    average_bits counts stored bits a weight, signs included; kilobytes is the packed file, scales and biases included.
    """

    average_bits: float | None = Field(None, gt=0, le=8)
    kilobytes: float | None = Field(None, gt=0)
    latency: LatencyBudget | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if sum(unit is not None for unit in (self.average_bits, self.kilobytes, self.latency)) != 1:
            raise ValueError("give exactly one of average_bits, kilobytes and latency")
        return self


class Activations(Strict):
    """Width and range of the activations.

    `learned` trains the calibrated scales on by LSQ's gradient, `pact` by PACT's; `calibrated` freezes them.
    """

    bits: int = Field(8, ge=2, le=8)
    range: Literal["learned", "pact", "calibrated"] = "learned"


class Export(Strict):
    """golden: number of test images kept in the bundle as golden vectors."""

    golden: int = Field(8, ge=1, le=256)


class Regression(Strict):
    """By how much a measurement may be worse than the last release's of the same model, device and runtime.

    top1 is a fraction of all test images, as in max_drop_vs_float; the others are shares of what the release took.
    """

    top1: float | None = Field(None, ge=0, le=1)
    latency: float | None = Field(None, ge=0)
    """Of p90; judged where time was measured, like the next."""
    peak_memory: float | None = Field(None, ge=0)
    size: float | None = Field(None, ge=0)


class Gates(Strict):
    """What a measurement must reach to be released; accuracies and drops are fractions, a KB is 1024 bytes."""

    min_top1: float | None = Field(None, ge=0, le=1)
    max_drop_vs_float: float | None = Field(None, ge=0, le=1)
    max_size_kb: float | None = Field(None, gt=0)
    max_latency_p90_ms: float | None = Field(None, gt=0)
    """Judged where time is real: not on an emulator. Memory likewise."""
    max_peak_memory_kb: float | None = Field(None, gt=0)
    max_regression: Regression = Field(default_factory=Regression)


class Recipe(Strict):
    """A validated recipe. model, data and method name a file of train/models, train/data/sets and train/methods."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    data: Section
    model: Section
    method: Section
    budget: Budget
    init: str | None = None
    """Float weights to start from: a file (.safetensors, .pt, .pth), or a name of train/pretrained.py."""
    float_run: FloatRun = Field(default_factory=FloatRun, alias="float")
    activations: Activations = Field(default_factory=Activations)
    export: Export = Field(default_factory=Export)
    gates: Gates = Field(default_factory=Gates)
    seed: int = Field(0, ge=0)
    devices: int = Field(1, ge=1)
    """Processes of one machine that train together (DDP when more than one)."""
    nodes: int = Field(1, ge=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @field_validator("float_run")
    @classmethod
    def _trained_or_given(cls, value: FloatRun, info: ValidationInfo) -> FloatRun:
        if value.epochs == 0 and info.data.get("init") is None:
            raise ValueError("without epochs the net needs weights to start from: give init")
        return value

    @property
    def float_epochs(self) -> int:
        """Epochs of the float run."""
        if self.float_run.epochs is None:
            return 0 if self.init else 4
        return self.float_run.epochs


class RecipeFile:
    """A recipe with its source, so that a problem found later can still name its line."""

    def __init__(self, path: Path, text: str, tree: yaml.Node | None, recipe: Recipe) -> None:
        self.path, self.text, self.recipe, self._tree = path, text, recipe, tree

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and validate a recipe.

        Raises:
            RecipeError: the file is missing, is not YAML or does not fit the schema; file and line are named.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, IsADirectoryError):
            known = ", ".join(sorted(found.stem for found in path.parent.glob("*.yaml"))) or "none"
            raise RecipeError(f"{path}: no such recipe", hint=f"recipes in {path.parent}: {known}") from None
        except UnicodeDecodeError:
            raise RecipeError(f"{path}: not UTF-8 text") from None
        try:
            tree = yaml.compose(text, Loader=yaml.SafeLoader)
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            raise RecipeError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
        try:
            return cls(path, text, tree, Recipe.model_validate(values))
        except ValidationError as error:
            raise _recipe_error(path, tree, (), error) from None

    def options(self, section: Literal["data", "model", "method"], schema: type[Model]) -> Model:
        """Validate the options of a plug-in's section by the plug-in's own schema.

        Raises:
            RecipeError: an option is unknown or out of range; file and line are named.
        """
        named: Section = getattr(self.recipe, section)
        try:
            return schema.model_validate(named.options)
        except ValidationError as error:
            raise _recipe_error(self.path, self._tree, (section,), error) from None


def _recipe_error(path: Path, tree: yaml.Node | None, prefix: tuple[str, ...], error: ValidationError) -> RecipeError:
    problem = error.errors()[0]
    where = (*prefix, *problem["loc"])
    name = ".".join(str(part) for part in where)
    said = _MOVED.get(name, "unknown key") if problem["type"] == "extra_forbidden" else problem["msg"]
    return RecipeError(
        f"{path}:{_line_of(tree, where)}: {name or 'recipe'}: {said}", hint="docs/recipes.md lists every key"
    )


def _line_of(tree: yaml.Node | None, where: tuple[int | str, ...]) -> int:
    """Return the line (from 1) of the deepest key of `where` that is in the file."""
    line = 1
    for part in where:
        if not isinstance(tree, yaml.MappingNode):
            break
        found = [(key, value) for key, value in tree.value if key.value == str(part)]
        if not found:
            break
        key, tree = found[0]
        line = key.start_mark.line + 1
    return line
