"""The reports in a real browser: readable at every size and scheme, accessible, self-contained, and no string runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, sync_playwright

from engine.audit.fleet import fleet_page, traces_in
from engine.audit.model_check import load
from engine.audit.report import run_page
from engine.verify.signature import Signers, sign
from tests.support.report_traces import HOSTILE, check_result, poisoned_trace, rewritten
from tests.support.stories import Story
from tests.unit.test_report import granting_the_host
from tests.unit.test_signature import new_key

#: How many runs the large fleet has.
MANY = 10_000
KINDS = ("good", "granted", "refused", "edited", "hostile", "fleet", "hostile_fleet", "large_fleet")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of each kind."""
    place = tmp_path_factory.mktemp("pages")
    key = new_key(place / "key")
    signers = Signers.of_key(f"{key}.pub")
    (place / "check.json").write_text(json.dumps(_check_of_today()))
    check = load(str(place / "check.json"))

    good = Story().write(place / "good.jsonl")
    sign(str(good), str(key))
    granted = rewritten(Story().write(place / "granted.jsonl"), granting_the_host)
    refused = Story(steps=3, end="refused").write(place / "refused.jsonl")
    edited = Story().write(place / "edited.jsonl")
    edited.write_bytes(edited.read_bytes().replace(b"0755", b"0777"))
    hostile = poisoned_trace(place / "hostile.jsonl", Story(rootless=True, user=1000), "".join(HOSTILE))

    few, many, bad = place / "few", place / "many", place / "bad"
    for directory in (few, many, bad):
        directory.mkdir()
    stories = (
        Story(),
        Story(),
        Story(steps=1, end="refused"),
        Story(steps=4, end="refused"),
        Story(steps=2, end="killed"),
    )
    for number, story in enumerate(stories):
        for day in range(3):
            trace = story.write(few / f"t{number}-{day}.jsonl")
            rewritten(
                trace,
                lambda lines: [{**line, "time": f"2026-03-0{day + 1}{line['time'][10:]}"} for line in lines],  # noqa: B023
            )
    shutil.copy(edited, few)
    for number, text in enumerate(HOSTILE):
        poisoned_trace(bad / f"t{number}.jsonl", Story(steps=number % 7, end="refused"), text)
    written = traces_in(str(few))
    for number in range(MANY):
        os.link(written[number % len(written)], many / f"{number}.jsonl")

    made = {
        "good": run_page(str(good), check=check, signers=signers),
        "granted": run_page(str(granted), check=check, signers=signers),
        "refused": run_page(str(refused), check=None, signers=signers),
        "edited": run_page(str(edited), check=None, signers=None),
        "hostile": run_page(str(hostile), check=check, signers=None),
        "fleet": fleet_page(traces_in(str(few)), signers=signers),
        "hostile_fleet": fleet_page(traces_in(str(bad)), signers=None),
        "large_fleet": fleet_page(traces_in(str(many)), signers=None),
    }
    for name, content in made.items():
        (place / f"{name}.html").write_bytes(content)
    return {name: place / f"{name}.html" for name in made}


def _check_of_today() -> dict[str, Any]:
    """A model checker's answer with about as much in it as the real one has."""
    said = check_result()
    (model,), (mutant,) = said["models"], said["mutants"]
    models = [
        {
            **model,
            "name": f"Lifecycle{number}",
            "properties": {f"Property{number}{each}": "holds" for each in range(3)},
            "actions": {f"Action{number}{each}": each for each in range(4)},
        }
        for number in range(22)
    ]
    mutants = [{**mutant, "name": f"guard-{number}-is-missing"} for number in range(136)]
    return {**said, "models": models, "mutants": mutants}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("no chromium on PATH; ./just setup installs it")
    # Its own sandbox cannot be had as root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Browser, pages: dict[str, Path]) -> Iterator[Callable[..., Page]]:
    """Opens a report; whatever it asks of the network, complains of or pops up is a failure."""
    complaints: list[str] = []
    asked: list[str] = []
    contexts = []

    def show(name: str, *, width: int = 1100, scheme: Any = "light", **options: Any) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        url = pages[name].as_uri()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(url)
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert {url for url in asked if url.startswith("file:")} <= {path.as_uri() for path in pages.values()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", KINDS)
def test_axe_finds_no_accessibility_violation(show: Callable[..., Page], name: str, scheme: str) -> None:
    page = show(
        name, scheme=scheme, bypass_csp=True
    )  # axe is not the page's script, so the page would refuse it
    found = Axe().run(page).response["violations"]
    assert [(each["id"], [node["target"] for node in each["nodes"]][:3]) for each in found] == []


@pytest.mark.parametrize("name", KINDS)
def test_axe_finds_no_accessibility_violation_on_a_narrow_screen(
    show: Callable[..., Page], name: str
) -> None:
    found = Axe().run(show(name, width=390, bypass_csp=True)).response["violations"]
    assert [(each["id"], [node["target"] for node in each["nodes"]][:3]) for each in found] == []


#: Whatever reaches beyond the right edge, but for what is hidden from sight.
_CUT_OFF = """() => [...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 1 && box.right > document.documentElement.clientWidth + 1 && !element.closest('.hidden');
}).map(element => element.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("width", [320, 390, 800, 1100])
@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_cut_off_at_any_width(show: Callable[..., Page], name: str, width: int) -> None:
    page = show(name, width=width)
    assert page.evaluate(_CUT_OFF) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", KINDS)
def test_it_prints_in_black_on_white_with_everything_unfolded(show: Callable[..., Page], name: str) -> None:
    page = show(name, scheme="dark", width=794)  # A4 at 96 dots an inch
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.evaluate(_CUT_OFF) == []
    folded = page.locator("details table:not(.lists *)")
    assert all(folded.nth(number).bounding_box() for number in range(folded.count()))
    assert page.pdf(format="A4").startswith(b"%PDF")


#: Words of which a part is on the next line. What has no word in it, such as a digest or a path, may be broken.
_BROKEN = r"""() => {
  const broken = [], range = document.createRange();
  const texts = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    if (text.parentElement.closest('.hidden')) continue;
    for (const word of text.data.matchAll(/(?<![^\s(])[A-Za-z]{2,20}(?![^\s.,;:)])/g)) {
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(box => box.top)).size > 1) broken.push(word[0]);
    }
  }
  return broken;
}"""


@pytest.mark.parametrize("name", ["good", "granted", "refused", "edited", "fleet"])
def test_on_paper_no_word_is_broken_and_a_run_has_six_pages(show: Callable[..., Page], name: str) -> None:
    page = show(name, width=711)  # A4 within its margins
    page.emulate_media(media="print")
    assert page.evaluate(_BROKEN) == []
    (count,) = re.findall(rb"/Count (\d+)", page.pdf(format="A4", prefer_css_page_size=True))
    assert int(count) <= 6


@pytest.mark.parametrize("width", [390, 1100])
@pytest.mark.parametrize("name", ["good", "granted", "refused", "edited", "fleet"])
def test_on_a_screen_no_word_is_broken(show: Callable[..., Page], name: str, width: int) -> None:
    assert show(name, width=width).evaluate(_BROKEN) == []


@pytest.mark.parametrize("name", KINDS)
def test_every_link_leads_to_what_can_be_seen(show: Callable[..., Page], name: str) -> None:
    page = show(name)
    links = page.locator("a[href]:not(.save)")
    assert links.count() > 3
    for href in {str(links.nth(number).get_attribute("href")) for number in range(links.count())}:
        page.locator(f"a[href='{href}']").first.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == href
        target = page.locator(href)
        assert target.count() == 1
        assert target.evaluate(
            "each => { const box = each.getBoundingClientRect(); return box.top < innerHeight; }"
        )


@pytest.mark.parametrize("name", ["good", "refused", "edited", "hostile"])
def test_the_files_of_a_run_can_be_saved_and_have_the_digests_shown(
    show: Callable[..., Page], pages: dict[str, Path], name: str
) -> None:
    page = show(name)
    links = page.locator("#check a.save")
    names = ["trace.jsonl", *(["trace.jsonl.sig"] if name == "good" else [])]
    assert [link.get_attribute("download") for link in links.all()] == names
    for link, saved_as in zip(links.all(), names, strict=True):
        with page.expect_download() as saving:
            link.click()
        content = Path(saving.value.path()).read_bytes()
        beside = pages[name].with_suffix(saved_as.removeprefix("trace"))
        assert content == beside.read_bytes()
        assert hashlib.sha256(content).hexdigest() in page.inner_text("#check")


@pytest.mark.parametrize("name", ["hostile", "hostile_fleet"])
def test_no_string_of_a_trace_runs_or_becomes_an_element(show: Callable[..., Page], name: str) -> None:
    page = show(name)
    for text in page.locator("summary").all():
        text.click()
    assert page.evaluate("window.owned") is None
    assert page.locator("main img:not([src^='data:image/svg+xml'])").count() == 0
    assert page.locator("[onerror], [onload], [onmouseover]").count() == 0
    assert "<script>window.owned=1</script>" in page.inner_text("main")


def test_the_reason_of_a_refusal_is_seen_before_anything_else(show: Callable[..., Page]) -> None:
    page = show("refused", width=390)
    reason = page.locator(".notice .what").bounding_box()
    heading = page.locator("h1").bounding_box()
    assert heading is not None
    assert reason is not None
    assert heading["y"] < reason["y"] < 200
    assert page.locator("h1").inner_text() == "Refused in stage: failure"


def test_what_was_given_is_on_the_first_screen(show: Callable[..., Page]) -> None:
    page = show("granted", width=1100)
    for place in (page.locator("#warnings li"), page.locator(".first dt")):
        boxes = [each.bounding_box() for each in place.all()]
        assert len(boxes) > 2
        assert all(box is not None and box["y"] < 900 for box in boxes)
    warning = page.locator("#warnings").bounding_box()
    assert warning is not None
    assert warning["y"] < 300


def test_a_fleet_of_ten_thousand_is_paged_searched_and_counted(show: Callable[..., Page]) -> None:
    page = show("large_fleet")
    rows, shown = page.locator("#list tbody tr"), page.locator("#shown")
    assert rows.count() == 50
    assert shown.inner_text() == "1 to 50 of 10,000 runs."
    assert "does not conform" in rows.first.inner_text()
    page.get_by_role("button", name="Next page").click()
    assert shown.inner_text() == "51 to 100 of 10,000 runs."
    page.get_by_role("button", name="Earlier page").click()
    assert page.get_by_role("button", name="Earlier page").is_disabled()
    page.get_by_label("Find in any column").fill("web 123.jsonl")
    assert rows.count() > 0
    assert all("123.jsonl" in row for row in rows.all_inner_texts())
    page.get_by_label("Find in any column").fill("there is no such run")
    assert shown.inner_text() == "None of 10,000 runs matches."
    page.get_by_label("Find in any column").fill("")
    page.get_by_label("Outcome").select_option("handed off")
    assert shown.inner_text().endswith("matching runs, of 10,000 in all.")
    assert {row.split("\t")[0].strip() for row in rows.all_inner_texts()} == {"✓ handed off"}


def test_a_value_of_a_table_leads_to_its_runs_and_back(show: Callable[..., Page]) -> None:
    page = show("fleet")
    rows = page.locator("#list tbody tr")
    everything = rows.count()
    table = page.locator("table.by[data-column='0']")
    row = table.locator("tbody tr").filter(has_text="release-")
    runs = int(row.locator("td").nth(1).inner_text())
    assert 0 < runs < everything
    row.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert rows.count() == runs
    assert page.locator("#runs").evaluate("each => each.getBoundingClientRect().top < innerHeight")
    page.get_by_label("Outcome").select_option("refused")
    assert 0 < rows.count() < runs
    page.get_by_label("Outcome").select_option("")
    page.get_by_role("button", name="show all").click()
    assert rows.count() == everything
    assert not page.locator("#all").is_visible()


def test_a_fleet_says_without_its_script_how_much_it_shows(show: Callable[..., Page]) -> None:
    page = show("large_fleet", java_script_enabled=False)
    assert "50 of 10,000 runs are shown. The others need JavaScript" in page.locator("#shown").inner_text()
    assert not page.get_by_role("button", name="Next page").is_visible()
