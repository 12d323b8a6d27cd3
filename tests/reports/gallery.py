"""make gallery: pictures of a real report for docs/gallery.md, taken in Chromium."""

import io
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from playwright.sync_api import Browser, Page

from msq.atomic import atomic_file
from msq.cli import run
from tests.reports.chromium import browser

SHOTS = {
    "summary": ("header", "#gates"),
    "classes": ("#classes", "#classes"),
    "bits": ("#bits h2", "#bits figure"),
    "latency": ("#latency", "#latency"),
    "memory": ("#memory", "#memory"),
    "runs": ("#all-runs h2", "#all-runs figure"),
}
"""Pictures, and the first and the last element that each shows; one that the page does not have is left out."""
DESK, PHONE = {"width": 1000, "height": 900}, {"width": 390, "height": 844}
MARGIN = 16
EDGES = "e => { const box = e.getBoundingClientRect(); return [box.top + scrollY, box.bottom + scrollY]; }"


def main(
    page: Annotated[Path, typer.Argument(help="Report (HTML).")],
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("docs/gallery"),
) -> None:
    """Take every picture anew."""
    with browser() as started:
        light = _opened(started, page, "light")
        for name, (first, last) in SHOTS.items():
            _between(light, first, last, out / f"{name}.png")
        _between(_opened(started, page, "dark"), *SHOTS["summary"], out / "dark.png")
        _tip(light, out / "tip.png")
        phone = _opened(started, page, "light", phone=True)
        clip = {"x": 0, "y": 0, "width": PHONE["width"], "height": 1500}
        _save(phone.screenshot(clip=clip, full_page=True), out / "phone.png")


def _opened(started: Browser, page: Path, scheme: str, *, phone: bool = False) -> Page:
    context = started.new_context(viewport=PHONE if phone else DESK, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(page.absolute().as_uri())
    return opened


def _between(page: Page, first: str, last: str, out: Path) -> None:
    top, bottom = page.locator(first).first, page.locator(last).first
    if not top.count() or not bottom.count():
        out.unlink(missing_ok=True)
        return
    (begin, _), (_, end) = top.evaluate(EDGES), bottom.evaluate(EDGES)
    clip = {"x": 0, "y": begin - MARGIN, "width": DESK["width"], "height": end - begin + 2 * MARGIN}
    _save(page.screenshot(clip=clip, full_page=True), out)


def _tip(page: Page, out: Path) -> None:
    """Show what a mark of the layers' chart says of itself."""
    chart = page.locator("#bits .wide").first
    chart.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    box = chart.bounding_box()
    assert box
    clip = {"x": 0, "y": page.evaluate("scrollY") + box["y"] - 40, "width": DESK["width"], "height": 160}
    _save(page.screenshot(clip=clip, full_page=True), out)


def _save(png: bytes, out: Path) -> None:
    """Keep a picture in 256 colours: it lies in the repository."""
    with atomic_file(out) as temporary, Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(temporary, format="PNG", optimize=True)


if __name__ == "__main__":
    run(lambda: typer.run(main))
