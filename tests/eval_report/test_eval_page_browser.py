"""The page of evaluations in Chromium: nothing loads or runs, filters, phones, contrast."""

from pathlib import Path

import pytest

from sft_cli.eval_report.page import write_eval_report
from tests.eval_report.evaluated import evaluated_run

pytestmark = [pytest.mark.slow]
CHROMIUM = Path("/usr/bin/chromium")
CONTRASTS = (Path(__file__).parents[1] / "report" / "contrasts.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    """Return a function that opens the page; fail on messages, errors, dialogs and requests."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip("/usr/bin/chromium is absent")
    url = write_eval_report(evaluated_run(tmp_path_factory.mktemp("page"))).as_uri()
    complaints = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])

        def opened(width=1280, scheme="light"):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("dialog", lambda dialog: complaints.append(dialog.message))
            page.on("request", lambda request: request.url.partition("#")[0] == url or complaints.append(request.url))
            page.goto(url)
            return page

        yield opened
        browser.close()
    assert complaints == []


def shown(page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('article.row:not([hidden]) h3')].map(one => one.textContent)")


def test_filters_choose_items(visit):
    page = visit()
    assert page.title() == "Evaluation of run"
    assert len(shown(page)) == 6
    page.select_option("select[name=state]", "regressed")
    assert shown(page) == ["rows.jsonl:1", "item-1"]
    page.select_option("select[name=suite]", label="capitals")
    assert shown(page) == ["item-1"]
    assert page.inner_text("[role=status]") == "1 of 6 items shown"
    page.select_option("select[name=state]", "failed")
    assert shown(page) == ["item-1", "item-2"]
    page.select_option("select[name=tag]", label="part: 0")
    assert shown(page) == ["item-2"]
    page.click("button[type=reset]")
    page.wait_for_function("document.querySelector('[role=status]').textContent.startsWith('6 of')")
    page.fill("input[name=text]", "train.jsonl:7")
    assert shown(page) == ["item-1"]
    assert page.locator("article:not([hidden]) details[open]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_cut_and_every_text_can_be_read(visit, width, scheme):
    page = visit(width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    result = page.evaluate(CONTRASTS)
    assert len(result) > 80
    assert [entry for entry in result if entry["ratio"] < 4.5] == []
