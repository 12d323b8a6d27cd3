"""The size and memory audit of a bundle, as a table: what each byte is, and what a runtime holds."""

from collections import defaultdict

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msq.bundle import Manifest, PartKind
from reports import wording

TITLES: dict[PartKind, str] = {
    "weights": "weights",
    "parameters": "scales, biases, tables",
    "alignment": "zeros that align arrays",
    "graph": "graph and metadata",
    "code": "machine code",
}


def stored_bytes(manifest: Manifest) -> dict[str, int]:
    """Return how many bytes of the deployed files are what, by title; nothing of a manifest without an audit."""
    total: dict[PartKind, int] = defaultdict(int)
    for part in manifest.audit:
        total[part.what] += part.bytes
    return {title: total[what] for what, title in TITLES.items() if total[what]}


def audit_table(manifest: Manifest) -> RenderableType:
    """Return the audit for a rich console. A manifest of before there was one has no parts: the table is empty."""
    stored: dict[tuple[str, PartKind], int] = defaultdict(int)
    for part in manifest.audit:
        stored[part.layer, part.what] += part.bytes
    table = Table("Layer", "Shape", "Bits", "By bits", "Stored", "Beside", box=box.SIMPLE_HEAD, show_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for layer in manifest.layers:
        by_bits = -(-layer.bits * layer.weights // 8)
        cells = (by_bits, stored[layer.name, "weights"], stored[layer.name, "parameters"])
        table.add_row(_text(layer.name), wording.shape(layer.shape), str(layer.bits), *(f"{size:,}" for size in cells))
    sums = Table("What", "Bytes", "Share", box=box.SIMPLE_HEAD, show_edge=False)
    for column in sums.columns[1:]:
        column.justify = "right"
    total = stored_bytes(manifest)
    for title, size in total.items():
        sums.add_row(title, f"{size:,}", f"{100 * size / sum(total.values()):.1f} %")
    sums.add_row("in all", f"{sum(total.values()):,}", "")
    sizes = manifest.sizes
    return Group(
        _text(f"{manifest.name}, {manifest.lowering}: {', '.join(dict.fromkeys(p.file for p in manifest.audit))}"),
        table,
        Text(),
        sums,
        Text(),
        _text(
            f"Weights by their bits take {sizes.weight_bytes:,} bytes, the files {sizes.model_bytes:,} of the "
            f"{sizes.limit_bytes:,} allowed."
        ),
        _text(f"Held in memory after loading: {sizes.resident_weight_bytes:,} bytes; {sizes.resident_note}."),
    )


def _text(words: str) -> Text:
    return Text(wording.printable(words))
