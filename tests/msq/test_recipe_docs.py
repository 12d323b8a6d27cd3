"""docs/recipes.md lists every key of a recipe with its default, and no key that does not exist."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from msq import plugins, recipe
from train import data, models

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"

SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": recipe.Recipe,
    "budget": recipe.Budget,
    "float": recipe.FloatRun,
    "activations": recipe.Activations,
    "export": recipe.Export,
    "gates": recipe.Gates,
    "max_regression": recipe.Regression,
    **{name: data.data_set(name).Options for name in data.names()},
    **{name: models.model(name).Options for name in models.names()},
    **{name: plugins.load("train.methods", name, "method").Options for name in plugins.names("train.methods")},
}
KEYLESS = {name for name, schema in SECTIONS.items() if not schema.model_fields}
REQUIRED = object()
OWN_SECTION = object()


def documented() -> dict[str, dict[str, object]]:
    """Section → key → default, as the page's tables say."""
    found: dict[str, dict[str, object]] = {}
    for line in PAGE.read_text().splitlines():
        if heading := re.fullmatch(r"##+ (.+)", line):
            section = found.setdefault(heading[1], {})
        elif row := re.fullmatch(r"\| `(\w+)` \| (.*?) ?\| .+ \|", line):
            words = {"": REQUIRED, "none": None, "all defaults": OWN_SECTION}
            section[row[1]] = words[row[2]] if row[2] in words else yaml.safe_load(row[2].strip("`"))
    return {name: keys for name, keys in found.items() if keys or name in KEYLESS}


def defaults(schema: type[BaseModel]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, field in schema.model_fields.items():
        default = REQUIRED if field.is_required() else OWN_SECTION if field.default_factory else field.default
        found[field.alias or name] = list(default) if isinstance(default, tuple) else default
    return found


def test_the_page_has_a_table_for_every_section_and_plug_in():
    assert documented().keys() == SECTIONS.keys()


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented_with_its_default(section):
    wanted = defaults(SECTIONS[section])
    if section == "Top level":
        wanted["gates"] = None
    assert documented()[section] == wanted


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_every_recipe_on_the_page_is_one(text, tmp_path):
    (tmp_path / "shown.yaml").write_text(text)
    shown = recipe.RecipeFile.read(tmp_path / "shown.yaml")
    shown.options("data", data.data_set(shown.recipe.data.name).Options)
    shown.options("model", models.model(shown.recipe.model.name).Options)
    shown.options("method", plugins.load("train.methods", shown.recipe.method.name, "method").Options)
