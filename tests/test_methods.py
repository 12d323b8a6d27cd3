"""Every method, from a recipe to a deployed model: the budget is met and the integer model is the trained net."""

from pathlib import Path

import pytest
import yaml
from rich.console import Console

from export.bundle import export
from msq.plugins import names
from msq.recipe import RecipeFile
from train.fit import train

QUICK = {
    "msq": {"prune_epochs": 1, "finetune_epochs": 1, "interval": 2, "distillation": 0.5},
    "dorefa": {"prune_epochs": 1, "finetune_epochs": 1, "interval": 2},
    "lsq": {"epochs": 1},
    "hawq": {"epochs": 1, "hessian_samples": 2},
    "bsq": {"bit_epochs": 2, "finetune_epochs": 1, "requantizations": 2},
    "csq": {"bit_epochs": 1, "finetune_epochs": 1},
}


@pytest.mark.parametrize("name", names("train.methods"))
def test_a_recipe_of_any_method_trains_to_its_budget_and_deploys_bit_for_bit(
    name: str, recipe: Path, tmp_path: Path
) -> None:
    wanted = yaml.safe_load(recipe.read_text())
    wanted |= {"method": {"name": name, **QUICK[name]}, "budget": {"average_bits": 4}}
    recipe.write_text(yaml.safe_dump(wanted))
    quiet = Console(quiet=True)
    checkpoint = train(RecipeFile.read(recipe), tmp_path / "checkpoint", tmp_path / "work", quiet)
    assert checkpoint.average_bits <= 4
    assert checkpoint.method == name
    again = train(RecipeFile.read(recipe), tmp_path / "again", tmp_path / "work", quiet)
    assert (again.sites, again.history) == (checkpoint.sites, checkpoint.history)
    manifest = export(tmp_path / "checkpoint", tmp_path / "bundle", "onnxruntime")
    assert manifest.parity is not None
    assert manifest.parity.max_lsb == 0
