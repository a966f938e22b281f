"""The page of a run in Chromium: nothing loads or runs, phones, contrast."""

from pathlib import Path

import pytest

from sft_cli.train.run_report.page import write_run_report
from tests.train.reported_run import reported_run

pytestmark = [pytest.mark.slow]
CHROMIUM = Path("/usr/bin/chromium")
CONTRASTS = (Path(__file__).parents[1] / "report" / "contrasts.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_cut_loaded_or_hard_to_read(tmp_path, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip("/usr/bin/chromium is absent")
    url, complaints = write_run_report(reported_run(tmp_path)).as_uri(), []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url == url or complaints.append(request.url))
        page.goto(url)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert page.title().startswith("Run </STYLE>")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        result = page.evaluate(CONTRASTS)
        assert len(result) > 60
        assert [entry for entry in result if entry["ratio"] < 4.5] == []
        browser.close()
    assert complaints == []
