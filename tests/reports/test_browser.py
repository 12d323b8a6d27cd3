"""The page in a browser: what its readers click and press, on a desk, on a phone, in the dark, and on paper."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from chromium import browser as start
from measurements import change, evaluation_of, hostile, other_run
from playwright.sync_api import Browser, Page

from msq import apt
from msq.bundle import Arena
from msq.measurement import Measurement
from reports.gates import evaluate
from reports.page import render
from reports.runs import frontier, runs
from reports.store import Store
from reports.thumbnails import albums

pytestmark = pytest.mark.skipif(not apt.available(), reason="the browser is fetched by apt")

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with start() as started:
        yield started


def written(measurement: Measurement, folder: Path, evaluation: Path) -> Path:
    """Write the page of a measurement among others, with everything that a page can have."""
    arena = Arena(bytes=4096, bound_bytes=3072, timeline={"conv": 1024, "add": 4096, "linear": 512})
    whole = change(measurement, arena=arena)
    native = whole.model_copy(update={"runtime": "native"})
    with Store(folder / "store.db") as store:
        store.add(whole, other_run(whole), other_run(native))
    html = render(whole, evaluate(None, whole), runs(whole, folder / "store.db"), albums(whole, evaluation))
    (folder / "page.html").write_text(html, encoding="utf-8")
    return folder / "page.html"


@pytest.fixture(scope="module")
def file(local: Measurement, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return written(local, folder, evaluation_of(local, folder))


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """The page on a desk; nothing may be said on its console, and nothing fetched."""
    with browser.new_context(viewport=DESK, color_scheme="light") as context:
        opened, said = context.new_page(), []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        opened.goto(file.as_uri())
        yield opened
        assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_and_nothing_overflows(
    browser: Browser, file: Path, scheme: str, size: dict[str, int]
) -> None:
    # axe is a script of its own, which the page's policy would not let run.
    with browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True) as context:
        opened = context.new_page()
        opened.goto(file.as_uri())
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = Axe().run(opened).response["violations"]
        assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found] == []


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_chart_is_drawn_within_the_page(browser: Browser, file: Path, size: dict[str, int]) -> None:
    with browser.new_context(viewport=size) as context:
        opened = context.new_page()
        opened.goto(file.as_uri())
        boxes = opened.evaluate(
            """[...document.querySelectorAll("figure[data-kind] svg")].filter(svg => svg.checkVisibility()).map(svg => {
                const box = svg.getBoundingClientRect(), marks = svg.querySelectorAll("[data-tip], rect, path, text");
                return [box.width, box.height, marks.length, box.left, box.right - innerWidth];
            })"""
        )
        assert len(boxes) == len(opened.query_selector_all(".wide"))
        for width, height, marks, left, beyond in boxes:
            assert width > 100 and height > 20 and marks > 3 and left >= 0 and beyond <= 0


def test_the_theme_is_the_systems_until_it_is_changed(page: Page) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Dark theme").click()
    assert page.evaluate(paper) != light
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(paper) == light


def test_tables_are_sorted_by_a_column_both_ways_with_the_keyboard_too(page: Page, local: Measurement) -> None:
    bits = page.locator(".layers thead").get_by_role("button", name="Bits", exact=True)
    cells = ".layers tbody td:nth-child(5)"
    bits.click()
    wanted = sorted(layer.bits for layer in local.manifest.layers)
    assert [int(text) for text in page.locator(cells).all_inner_texts()] == wanted
    bits.press("Enter")
    assert [int(text) for text in page.locator(cells).all_inner_texts()] == wanted[::-1]
    assert page.locator(".layers th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.locator(".layers thead").get_by_role("button", name="Layer").click()
    names = page.locator(".layers tbody th").all_inner_texts()
    assert names == sorted(names) and page.locator(".layers th[aria-sort]").count() == 1


def test_marks_say_what_they_are_to_the_arrow_keys(page: Page, local: Measurement) -> None:
    chart = page.locator("#bits .wide").first
    chart.focus()
    said = []
    for _ in local.manifest.layers:
        page.keyboard.press("ArrowRight")
        said.append(chart.locator("output").inner_text())
    assert [text.split(":")[0] for text in said] == [layer.name for layer in local.manifest.layers]
    page.keyboard.press("Home")
    assert chart.locator("output").inner_text() == said[0]
    page.keyboard.press("Escape")
    assert chart.locator("output").inner_text() == ""


def test_marks_say_what_they_are_to_a_pointer_that_is_near(page: Page) -> None:
    chart = page.locator("#latency .wide")
    mark = chart.locator("[data-tip]").nth(7)
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert chart.locator("output").inner_text().startswith("run ")
    page.mouse.move(1, 1)
    assert chart.locator("output").inner_text() == ""


def test_runs_are_filtered_and_the_frontier_is_that_of_those_left(page: Page) -> None:
    shown = page.locator("#all-runs figure").first.locator(".wide svg [data-tip]:not([data-tip='Pareto frontier'])")
    line = page.locator("#all-runs figure").first.locator(".wide [data-tip='Pareto frontier']")
    assert shown.count() == 3 and page.locator("#runs tbody tr:visible").count() == 3
    places = "dots => dots.map(d => d.getAttribute('transform').match(/-?[\\d.]+/g).map(Number))"
    page.get_by_role("checkbox", name="native").uncheck()
    assert page.locator("#runs tbody tr:visible").count() == 2
    assert "2 of 3 runs" in page.locator("#shown").inner_text()
    left = page.locator("#all-runs figure").first.locator(
        ".wide svg [data-tip]:not([data-tip='Pareto frontier']):not([style*='none'])"
    )
    assert left.count() == 2
    corners = [(x, -y) for x, y in left.evaluate_all(places)]
    path = [tuple(map(float, part.split(","))) for part in as_corners(line.get_attribute("d") or "")]
    assert np.allclose([(x, -y) for x, y in path], frontier(corners))
    page.get_by_role("checkbox", name="native").check()
    assert page.locator("#runs tbody tr:visible").count() == 3


def as_corners(path: str) -> list[str]:
    """Return the points of a step line, M x,y H x V y …"""
    return path.removeprefix("M").replace("H", " ").replace("V", ",").split()


def test_what_is_near_is_reached_by_links_and_by_the_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the figures"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for link in page.locator("nav a").all():
        target = link.get_attribute("href")
        assert target and page.locator(target).count() == 1


def test_paper_has_every_section_and_no_controls(page: Page) -> None:
    assert page.pdf(format="A4")[:5] == b"%PDF-"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 30, 33)"
    assert page.locator("nav:visible, #theme:visible, #filters:visible").count() == 0
    assert page.locator("section:visible").count() == page.locator("section").count()


def test_all_is_there_without_the_script(browser: Browser, file: Path) -> None:
    with browser.new_context(viewport=DESK, java_script_enabled=False) as context:
        opened = context.new_page()
        opened.goto(file.as_uri())
        assert opened.locator("#theme:visible, #filters:visible, #runs tbody tr").count() == 3
        assert opened.locator("svg:visible").count() > 8


def test_hostile_names_run_no_script_and_fetch_nothing(browser: Browser, local: Measurement, tmp_path: Path) -> None:
    attacked = Measurement.model_validate(hostile(local.model_dump(mode="json")))
    file = written(attacked, tmp_path, evaluation_of(local, tmp_path))
    with browser.new_context(viewport=DESK) as context:
        opened, said = context.new_page(), []
        opened.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: said.append(request.url) if "page.html" not in request.url else None)
        opened.goto(file.as_uri())
        for box in opened.get_by_role("checkbox").all():
            box.uncheck()
        opened.locator("#bits .wide").first.focus()
        opened.keyboard.press("ArrowRight")
        assert "<script>alert(1)</script>" in opened.locator("#bits output").first.inner_text()
        assert [text for text in said if not text.startswith("data:image/png;base64,")] == []
