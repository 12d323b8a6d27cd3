"""What a budget allows, and what a layer of a width takes of it."""

import json
from pathlib import Path

from msq.errors import BudgetError, RecipeError
from msq.packing import packed_size
from msq.recipe import Budget
from train.quantize import QuantizedModel, Site


class Target:
    """A budget over the layers of one model, in the budget's own unit.

    average_bits counts stored bits; kilobytes the bits of the packed file: whole panels and blocks (msq.packing), and a
    float32 scale and an int32 bias an output; latency the milliseconds that a table gives for every layer and width.

    Args:
        budget: what a recipe says. model: its sites are what the budget is spent on.
    Raises:
        RecipeError: a latency table cannot be read or lacks a layer.
    """

    def __init__(self, budget: Budget, model: QuantizedModel) -> None:
        self.model = model
        self._packed = budget.kilobytes is not None
        self._table: dict[str, list[float]] | None = None
        if budget.latency is not None:
            self._table = _read_table(budget.latency.table, [site.name for site in model.sites])
            self.limit, self.unit = budget.latency.ms, "ms"
        elif budget.kilobytes is not None:
            self.limit, self.unit = budget.kilobytes * 8192, "bits of file"
        else:
            assert budget.average_bits is not None
            self.limit, self.unit = budget.average_bits * model.weights, "bits"

    def size_of(self, site: Site, bits: int) -> float:
        """Return what a site takes at a stored width, in the budget's unit."""
        if self._table is not None:
            return self._table[site.name][bits]
        if self._packed:
            outputs = site.shape[0]
            return 8.0 * (packed_size(outputs, site.numel // outputs, bits, site.depthwise) + 8 * outputs)
        return float(bits * site.numel)

    def size(self) -> float:
        """Return what the model takes at its present widths."""
        return sum(self.size_of(site, site.quantizer.stored_bits) for site in self.model.sites)

    def say(self, size: float) -> str:
        """Return a size in the words of the recipe."""
        if self._table is not None:
            return f"{size:.3g} ms"
        if self._packed:
            return f"{size / 8192:.1f} KiB"
        return f"{size / self.model.weights:.2f} bits a weight"

    def check(self) -> None:
        """Raise BudgetError, naming the layers that hold it back, where the trained model is more than 2 % over."""
        size = self.size()
        if size <= 1.02 * self.limit:
            return
        largest = sorted(
            self.model.sites, key=lambda site: self.size_of(site, site.quantizer.stored_bits), reverse=True
        )[:3]
        held = ", ".join(f"{site.name} at {site.quantizer.stored_bits} bits" for site in largest)
        raise BudgetError(
            f"training ended at {self.say(size)}, the budget is {self.say(self.limit)}; most is held by {held}",
            hint="raise the budget, give the method more epochs or strength, or let it keep_pace",
        )


def _read_table(path: Path, names: list[str]) -> dict[str, list[float]]:
    """Read {layer: [ms at 0 bits, …, ms at 8 bits]}."""
    hint = 'a latency table is JSON: {"layer": [ms at 0 stored bits, at 1, …, at 8], …}'
    try:
        table = {str(name): [float(ms) for ms in row] for name, row in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file", hint=hint) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: not a latency table: {error}", hint=hint) from None
    for name in names:
        if len(table.get(name, ())) != 9:
            raise RecipeError(f"{path}: no nine latencies for layer {name}", hint=hint)
    return table
