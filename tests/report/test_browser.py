"""The page in a real browser: only its own script runs, nothing loads; keyboard, dark and light, phones, contrast."""

import os
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow]
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
CONTRASTS = Path(__file__).with_name("contrasts.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser():
    """Return headless Chromium; skip the test if it or Playwright is absent."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip("/usr/bin/chromium is absent")
    os.environ.setdefault("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, full):
    """Return a function that opens the report; at the end, fail on console messages, errors, dialogs and requests."""
    complaints, contexts = [], []

    def visit(scheme="light", width=1100, scripts=True):
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 800}, java_script_enabled=scripts
        )
        contexts.append(context)
        page = context.new_page()
        url = (full / "report.html").as_uri()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: request.url.partition("#")[0] == url or complaints.append(request.url))
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def shown(page):
    return page.evaluate("[...document.querySelectorAll('article.row')].filter(row => !row.hidden).length")


def test_markup_in_the_data_is_text(visit):
    page = visit()
    assert page.title().startswith("Prepared data ")
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.querySelectorAll('style').length") == 1
    assert page.evaluate("document.querySelectorAll('img, iframe, object, embed, link').length") == 0
    assert page.evaluate("document.body.getBoundingClientRect().height") > 1000
    assert "<script>document.title = 'owned'</script>" in page.text_content("#rows")


def test_policy_blocks_foreign_content(browser, full):
    """Even if the text of a row became markup, it could not run or load anything."""
    page = browser.new_page()
    output = []
    page.on("console", lambda message: output.append(message.text))
    page.goto((full / "report.html").as_uri())
    page.evaluate(
        "() => { window.owned = false; const script = document.createElement('script');"
        " script.textContent = 'window.owned = true'; document.body.append(script);"
        " const image = document.createElement('img'); image.src = 'http://127.0.0.1:9/x';"
        " document.body.append(image); }"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.owned") is False
    assert len(output) == 2
    assert all("Content Security Policy" in text for text in output)
    page.close()


def test_search_and_filters_by_keyboard(visit):
    page = visit()
    every = shown(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "text"
    page.keyboard.type("</STYLE>")
    assert 0 < shown(page) < every
    assert f"{shown(page)} of {every} rows shown" == page.inner_text("[role=status]")
    assert page.evaluate("CSS.highlights.get('found').size") >= 2
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    assert shown(page) == every
    page.keyboard.press("Tab")
    page.keyboard.type("plain")
    assert page.evaluate("document.activeElement.value") == "plain"
    assert {shown(page)} == {page.locator("article.row[data-source=plain]").count()}
    page.keyboard.press("Tab")
    page.keyboard.type("shortest")
    assert shown(page) == page.locator("article.row[data-source=plain][data-kinds*=shortest]").count() == 2
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "reset"
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelector('[role=status]').textContent.startsWith('{every} of')")
    page.keyboard.press("Tab")
    assert "tokens" in page.evaluate("document.activeElement.className")


def test_slash_can_be_typed_in_the_search(visit):
    page = visit()
    page.keyboard.press("/")
    page.keyboard.type("a/b")
    assert page.input_value("input[name=text]") == "a/b"


def test_focus_is_visible_on_every_control(visit):
    page = visit()
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        style = page.evaluate(
            "(() => { const one = document.activeElement, style = getComputedStyle(one);"
            " return [one.tagName, style.outlineStyle, parseFloat(style.outlineWidth)]; })()"
        )
        seen.append(style)
    assert all(style != "none" and width >= 2 for tag, style, width in seen if tag != "BODY")
    assert {"A", "SUMMARY", "INPUT", "SELECT", "BUTTON", "DIV"} <= {tag for tag, _, _ in seen}


def test_details_open_with_the_keyboard(visit):
    page = visit()
    page.locator("#drops summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#drops details[open] li").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 1400])
def test_no_sideways_scrolling(visit, scheme, width):
    page = visit(scheme, width)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("width", [390, 1280])
def test_trained_tokens_are_visible(visit, scripts, width):
    """The box of every row shows them without scrolling, wherever the loss begins."""
    page = visit(width=width, scripts=scripts)
    places = [
        (box.bounding_box(), box.locator("u").first.bounding_box())
        for box in page.locator("article.row .tokens").all()
        if box.locator("u").count()
    ]
    assert len(places) > 30
    assert [(box, loss) for box, loss in places if loss["y"] + 20 > box["y"] + box["height"]] == []
    assert page.locator("details.fold").count() > 0


def test_search_opens_folded_text(visit):
    page = visit()
    assert page.locator("details.fold[open]").count() == 0
    page.fill("input[name=text]", "x" * 100)
    assert page.locator("article.row:not([hidden]) details.fold[open]").count() > 0


def test_dropped_row_and_its_entry_link_to_each_other(visit):
    page = visit()
    page.emulate_media(reduced_motion="reduce")
    page.locator("#drops summary").first.click()
    page.locator("#drops li a").first.click()
    target = page.evaluate("location.hash")
    assert page.locator(target).is_visible()
    assert 0 <= page.locator(target).bounding_box()["y"] < 800
    page.locator(f"{target} .meta a").click()
    assert page.evaluate("location.hash").startswith("#drop-")
    assert 0 <= page.locator(page.evaluate("location.hash")).bounding_box()["y"] < 800


def test_wide_table_has_a_hint_on_a_phone(visit):
    page = visit(width=390)
    table = page.locator("#mix .scroll.wide").last
    assert page.locator("#mix .hint").last.is_visible()
    assert table.evaluate("one => one.scrollWidth > one.clientWidth")
    table.evaluate("one => { one.scrollLeft = 300; }")
    name, box = table.locator("tbody th").first.bounding_box(), table.bounding_box()
    assert abs(name["x"] - box["x"]) <= 1  # the names of the rows stay visible
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.locator("#mix .hint").last.is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_sufficient_contrast(visit, scheme):
    page = visit(scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    result = page.evaluate(CONTRASTS)
    assert len(result) > 500
    assert [entry for entry in result if entry["ratio"] < 4.5][:5] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(background.removeprefix("rgb(").split(",")[0]) > 200) == (scheme == "light")


def test_page_shows_loss_without_colour(visit):
    page = visit()
    lines = "getComputedStyle(document.querySelector('article.row .tokens {}')).textDecorationLine"
    assert page.evaluate(lines.format("u")) == "underline"
    assert page.evaluate(lines.format("span")) == "none"


def test_page_without_scripts_shows_everything(visit):
    page = visit(scripts=False)
    assert page.locator("article.row").count() > 30
    assert page.locator("form").is_hidden()
    assert page.locator("article.row").first.is_visible()


def test_printed_page_shows_whole_rows(visit):
    page = visit()
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    box = "(() => { const one = document.querySelector('article.row .tokens');"
    assert page.evaluate(f"{box} return one.scrollHeight - one.clientHeight; }})()") <= 1
