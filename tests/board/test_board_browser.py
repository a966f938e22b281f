"""The board in Chromium: every page on a desktop, a phone and in the dark; keyboard, names, live rows."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from sft_cli.board import server
from sft_cli.board.security import Access
from sft_cli.run_dir import RunDir
from sft_cli.train.run_end import StopRequest, requested_stop
from sft_cli.train.setup import run_lock
from tests.board.run_dirs import finish, step_line, write_run
from tests.eval_report.evaluated import evaluated_run
from tests.report.helpers import make

pytestmark = [pytest.mark.slow]
CHROMIUM = Path("/usr/bin/chromium")
CONTRASTS = (Path(__file__).parents[1] / "report" / "contrasts.js").read_text(encoding="utf-8")
TOKEN = "a-token-of-24-characters"
RUN = "quickstart-20261201-033716"
PAGES = [
    "/new",
    f"/evaluations/{RUN}",
    "/evaluations/run?with=second",
    f"/data/{RUN}",
    f"/row/{RUN}?at=0",
    "/",
    f"/run/{RUN}",
    f"/run/{RUN}?with=sweep-lr/lr%3D1e-3",
    "/run/a%20name%20%3Cb%3Ewith%3C/b%3E%20'%20%26%20%22%20marks",
]
UNNAMED = """[...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, [tabindex], [role=img]')]
  .filter(one => !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length))
  .map(one => one.outerHTML.slice(0, 100))"""


def serve(directory: Path) -> str:
    """Serve a board in a thread that ends with the process, and return its address."""
    from uvicorn import Config, Server

    from sft_cli.board.app import create_app

    listener = server.listen("127.0.0.1", 0)
    app = create_app(server.open_index(directory), Access(TOKEN, False))
    running = Server(Config(app, log_level="warning", access_log=False, lifespan="off", ws="none"))
    threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True).start()
    while not running.started:
        time.sleep(0.02)
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Return a directory of runs."""
    directory = tmp_path_factory.mktemp("runs")
    run = write_run(directory / RUN, steps=200)
    finish(run, 200)
    prepared = make(tmp_path_factory.mktemp("prepared"))
    fingerprint = json.loads((prepared / "manifest.json").read_text())["fingerprint"]
    run.data.write_text(json.dumps({"prepared_dir": str(prepared), "fingerprint": fingerprint}))
    (directory / "run").mkdir()
    (directory / "run" / "config.yaml").write_text("seed: 0\n")
    shutil.copytree(evaluated_run(directory).path, directory / "second")
    write_run(directory / "sweep-lr" / "lr=1e-3", steps=120, lr="0.001")
    write_run(directory / "a name <b>with</b> ' & \" marks", steps=30)
    return directory


@pytest.fixture(scope="module")
def visit(runs):
    """Return a function that opens a page; fail on messages, errors, dialogs and foreign requests."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip("/usr/bin/chromium is absent")
    address = serve(runs)
    complaints = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])

        def opened(path="/", width=1280, scheme="light"):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("dialog", lambda dialog: complaints.append(dialog.message))
            page.on("request", lambda request: request.url.startswith(address) or complaints.append(request.url))
            page.goto(address + path)
            page.wait_for_selector("body:not([data-loading])")
            return page

        yield opened
        browser.close()
    assert [text for text in complaints if text != "data:,"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_cut_and_every_text_can_be_read(visit, path, width, scheme):
    page = visit(path, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    if path.startswith("/run/"):
        page.locator("figure.chart svg path.line").first.wait_for()
    if folder := os.environ.get("SFT_TEST_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{PAGES.index(path)}-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [entry for entry in page.evaluate(CONTRASTS) if entry["ratio"] < 4.5] == []
    assert page.evaluate(UNNAMED) == []
    assert page.title()
    page.close()


def test_rows_are_filtered_sorted_and_updated(visit, runs):
    page = visit()
    page.get_by_text("5 of 5 runs shown").wait_for()
    names = "[...document.querySelectorAll('#runs tbody tr:not([hidden])')].map(row => row.dataset.name)"
    page.select_option("select[name=order]", "step")
    assert page.evaluate(names)[0] == "quickstart-20261201-033716"
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("sweep")
    assert page.evaluate(names) == ["sweep-lr/lr=1e-3"]
    with (runs / "sweep-lr" / "lr=1e-3" / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(step_line(121, 100)) + "\n")
    page.get_by_text("121 / 200").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "state"
    page.close()


def test_forms_work_with_the_token_of_the_address(visit, runs):
    page = visit(f"/?token={TOKEN}")
    assert "token" not in page.url
    page.goto(page.url + "new")
    page.fill("input[name=settings]", "trainer.lr=1e-3")
    page.get_by_role("button", name="Show").click()
    page.get_by_text("sft train recipe=quickstart trainer.lr=1e-3").wait_for()
    run = RunDir(runs / "sweep-lr" / "lr=1e-3")
    with run_lock.hold_run_lock(run.lock):
        page.goto(page.url.removesuffix("new") + "run/sweep-lr/lr=1e-3")
        page.get_by_role("button", name="Stop after this step").click()
        page.wait_for_url("**/run/sweep-lr/lr%3D1e-3")
        assert requested_stop(run) is StopRequest.save
    page.get_by_role("button", name="Stop after this step").wait_for(state="hidden")
    assert page.locator("[data-key=state]").inner_text() == "interrupted"
    page.close()


def test_curves_are_zoomed_with_keys_and_pointer(visit):
    page = visit(f"/run/{RUN}")
    chart = page.locator("figure.chart svg").first
    page.locator("figure.chart svg path.line").first.wait_for()
    assert "at step 200" in chart.get_attribute("aria-label")
    page.fill("input[name=last]", "100")
    page.keyboard.press("Tab")
    page.locator("figure.chart svg[aria-label*='at step 100']").first.wait_for()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 60, steps=4)
    page.mouse.up()
    page.locator("figure.chart svg[aria-label*='at step 6']").first.wait_for()
    assert 20 < int(page.input_value("input[name=first]")) < 45
    page.get_by_role("button", name="All steps").click()
    page.locator("figure.chart svg[aria-label*='at step 200']").first.wait_for()
    page.close()
