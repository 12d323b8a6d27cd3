"""`msq bundle`: what a bundle holds, how two differ, and who made it."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from msq import signature
from msq.archive import bundle_folder
from msq.artefact import as_json
from msq.bundle import MANIFEST_FILE, Manifest
from msq.bundle_diff import BundleDiff, Changed
from msq.checksums import sha256_of
from msq.errors import UsageError
from msq.terminal import Json, messages, print_json, print_wide

bundle_app = typer.Typer(help="Bundles: contents, differences, signatures.", no_args_is_help=True)

Bundle = Annotated[Path, typer.Argument(help="Folder of a bundle, or its .tar.")]


@bundle_app.command("list")
def list_contents(bundle: Bundle, as_json_: Annotated[
    bool, typer.Option("--json", help="Print a bill of materials: CycloneDX 1.6.")
] = False) -> None:  # fmt: skip
    """List what a bundle holds and what it was made of."""
    from msq.contents import cyclonedx, rows

    with bundle_folder(bundle) as folder:
        manifest = Manifest.open(folder)
        if as_json_:
            sys.stdout.write(json.dumps(cyclonedx(folder, manifest), indent=1) + "\n")
            return
        files = _table("File", "Bytes", "sha256", "")
        files.columns[1].justify = "right"
        for name, size, digest, meaning in rows(folder, manifest):
            files.add_row(Text(name), f"{size:,}", digest[:16] + "…", meaning)
        made = _table("Made of", "Version")
        for name, version in sorted(manifest.versions.items()):
            made.add_row(Text(name), Text(version))
        made.add_row(Text(f"data {manifest.data.name}"), manifest.data.sha256[:16] + "…")
        made.add_row("checkpoint", manifest.checkpoint_sha256[:16] + "…")
        address = sha256_of(folder / MANIFEST_FILE)
        head = f"{manifest.name}: {manifest.model}, {manifest.method}, {manifest.average_bits:.2f} bits; {address}"
        print_wide(Group(Text(head), Text(), files, Text(), made))


@bundle_app.command()
def audit(bundle: Bundle, as_json_: Json = False) -> None:
    """Print what each byte of a bundle's model is, layer by layer, and what its runtime holds after loading."""
    from reports.audit import audit_table

    with bundle_folder(bundle) as folder:
        manifest = Manifest.open(folder)
    if as_json_:
        sys.stdout.write(json.dumps([as_json(part) for part in manifest.audit], indent=1) + "\n")
    else:
        print_wide(audit_table(manifest))


@bundle_app.command()
def diff(a: Bundle, b: Bundle, as_json_: Json = False) -> None:
    """Say how two bundles differ: layers, sizes, accuracy, answers, versions."""
    from msq.bundle_diff import diff as run

    with bundle_folder(a) as first, bundle_folder(b) as second:
        found = run(first, second)
    if as_json_:
        print_json(found)
    else:
        print_wide(_shown(found))


@bundle_app.command()
def key() -> None:
    """Make your key where there is none; say where it lies and what it is called."""
    folder = signature.keys_folder()
    name = signature.make_key(folder)
    messages.print(f"{folder / signature.PUBLIC_KEY}: {name}", highlight=False, markup=False, soft_wrap=True)


@bundle_app.command()
def trust(key_file: Annotated[Path, typer.Argument(metavar="KEY", help="A public key (PEM).")]) -> None:
    """Trust whoever has the private half of a key."""
    name = signature.trust(key_file, signature.keys_folder())
    messages.print(f"trusted: {name}", highlight=False, soft_wrap=True)


@bundle_app.command()
def sign(bundle: Annotated[Path, typer.Argument(help="Folder of a bundle; its .tar is written anew.")]) -> None:
    """Sign a bundle with your key."""
    if not bundle.is_dir():
        raise UsageError(f"{bundle}: not a bundle's folder", hint="sign the folder; its .tar is written anew")
    made = signature.sign(bundle, signature.keys_folder())
    messages.print(
        f"{bundle}: signed by {signature.fingerprint(made.public_key)}", highlight=False, markup=False, soft_wrap=True
    )


@bundle_app.command()
def verify(
    bundle: Bundle,
    key_files: Annotated[
        list[Path] | None, typer.Option("--key", help="Public key (PEM) to trust, instead of those that you do.")
    ] = None,
) -> None:
    """Check that a bundle is whole and signed by a key you trust; exits with 8 where it is not."""
    if key_files:
        trusted = {signature.public_key(file) for file in key_files}
    else:
        trusted = signature.trusted_keys(signature.keys_folder())
    with bundle_folder(bundle) as folder:
        made = signature.verify(folder, trusted)
    messages.print(
        f"{bundle}: whole, signed by {signature.fingerprint(made.public_key)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _shown(found: BundleDiff) -> Group:
    if found.same:
        return Group(Text("the same bundle"))
    parts: list[Text | Table] = []
    for title, rows in (("", found.facts), ("Layer", found.layers), ("File", found.files), ("Package", found.versions)):
        if rows:
            parts += [_rows(title, rows), Text()]
    if found.answers:
        parts.append(Text(f"{found.answers.different:,} of {found.answers.images:,} test images are classed otherwise"))
    return Group(*parts)


def _rows(title: str, rows: tuple[Changed, ...]) -> Table:
    table = _table(title, "A", "B")
    for row in rows:
        table.add_row(Text(row.what), *(Text("–" if value is None else value) for value in (row.a, row.b)))
    return table


def _table(*header: str) -> Table:
    return Table(*header, box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
