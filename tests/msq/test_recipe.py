"""Recipes: those that ship are valid; a wrong one is refused with the line at fault."""

from pathlib import Path

import pytest

from msq import plugins
from msq.errors import RecipeError
from msq.recipe import RecipeFile
from train import data, models

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))

VALID = """\
name: tiny
data:
  name: fashion-mnist
model:
  name: resnet8
method:
  name: msq
budget:
  average_bits: 2.5
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_and_its_plug_ins_options_are_valid(path):
    found = RecipeFile.read(path)
    recipe = found.recipe
    assert recipe.name == path.stem
    found.options("data", data.data_set(recipe.data.name).Options)
    found.options("model", models.model(recipe.model.name).Options)
    found.options("method", plugins.load("train.methods", recipe.method.name, "method").Options)


def test_the_recipes_of_the_readme_ship():
    assert {path.stem for path in SHIPPED} >= {
        "fashion-resnet8",
        "fashion-resnet20",
        "cifar10-resnet8",
        "cifar10-resnet20",
    }


def test_what_is_left_out_has_its_documented_default(write):
    recipe = RecipeFile.read(write(VALID)).recipe
    assert (recipe.seed, recipe.activations.bits, recipe.gates.min_top1) == (0, 8, None)


def refusal(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        RecipeFile.read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_key_is_refused_at_its_line(write):
    path = write(VALID + "sead: 3\n")
    assert refusal(path) == f"{path}:10: sead: unknown key"


def test_an_unknown_nested_key_is_refused_at_its_line(write):
    path = write(VALID + "gates:\n  min_top1: 0.9\n  min_top5: 0.9\n")
    assert refusal(path) == f"{path}:12: gates.min_top5: unknown key"


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("average_bits: 2.5", "average_bits: many", 9, "budget.average_bits"),
        ("average_bits: 2.5", "average_bits: 9", 9, "budget.average_bits"),
        ("average_bits: 2.5", "average_bits: 0", 9, "budget.average_bits"),
        ("budget:\n  average_bits: 2.5", "budget: 2.5", 8, "budget"),
        ("name: tiny", "name: 'Big Name'", 1, "name"),
        ("name: msq", "nom: msq", 6, "method.name"),
    ],
)
def test_a_wrong_value_is_refused_at_its_line(write, old, new, line, key):
    path = write(VALID.replace(old, new))
    assert refusal(path).startswith(f"{path}:{line}: {key}: ")


def test_the_old_key_of_given_weights_names_the_new_one(write):
    path = write(VALID + "float:\n  checkpoint: weights.pt\n")
    said = f"{path}:11: float.checkpoint: is now the key init, at the top level of the recipe"
    assert refusal(path) == said


@pytest.mark.parametrize(
    ("more", "epochs"),
    [
        ("", 4),
        ("float: {epochs: 7}\n", 7),
        ("init: w.pt\n", 0),
        ("init: w.pt\nfloat: {batch_size: 8}\n", 0),
        ("init: w.pt\nfloat: {epochs: 2}\n", 2),
    ],
)
def test_given_weights_are_trained_in_float_only_where_that_is_asked_for(write, more, epochs):
    assert RecipeFile.read(write(VALID + more)).recipe.float_epochs == epochs


def test_a_net_that_is_neither_trained_nor_given_is_refused_at_its_line(write):
    path = write(VALID + "float: {epochs: 0}\n")
    assert refusal(path).startswith(f"{path}:10: float: ") and "init" in refusal(path)


def test_a_missing_section_is_named(write):
    path = write(VALID.replace("budget:\n  average_bits: 2.5\n", ""))
    assert refusal(path).startswith(f"{path}:1: budget: ")


def test_an_unknown_option_of_a_plug_in_is_refused_at_its_line(write):
    path = write(VALID.replace("  name: resnet8", "  name: resnet8\n  depth: 3"))
    with pytest.raises(RecipeError) as caught:
        RecipeFile.read(path).options("model", models.model("resnet8").Options)
    assert str(caught.value) == f"{path}:6: model.depth: unknown key"


def test_what_is_not_yaml_is_refused_at_its_line(write):
    path = write("name: tiny\ndata: [\n  name: x\nmodel: ]{\n")
    assert refusal(path).startswith(f"{path}:4: not YAML: ")


@pytest.mark.parametrize("text", ["", "just words\n", "- a\n- b\n"])
def test_yaml_that_is_no_recipe_is_refused(write, text):
    path = write(text)
    assert refusal(path).startswith(f"{path}:1: recipe: ")


def test_a_recipe_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "picture.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    assert refusal(path) == f"{path}: not UTF-8 text"


def test_a_missing_recipe_lists_those_there_are(write):
    there = write(VALID)
    with pytest.raises(RecipeError, match="no such recipe") as caught:
        RecipeFile.read(there.with_name("other.yaml"))
    assert "tiny" in caught.value.hint
