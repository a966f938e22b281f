"""Write the picture of the README: the report of conversations, made from the quickstart's rows, in Chromium.

Run it with ``python scripts/report_picture.py`` after the report or its words change, and look at the picture.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "sft_cli/docs/report.png"
CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1000, "height": 680}
CONVERSATIONS, TURNS = 150, 3
SETTINGS = ("model.tokenizer=builtin:quickstart/model", "template=vicuna", "data.mix.local.path=rows.jsonl")


def write_conversations(file: Path) -> None:
    """Write conversations of several turns, each with questions and answers of the quickstart."""
    lines = (ROOT / "sft_cli/quickstart/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: CONVERSATIONS * TURNS]]
    with file.open("w", encoding="utf-8") as out:
        for start in range(0, len(rows), TURNS):
            messages = []
            for row in rows[start : start + TURNS]:
                question = f"{row['instruction']} {row['input']}".strip()
                messages += [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
            out.write(json.dumps({"messages": messages}) + "\n")


def take_picture(report: Path) -> None:
    """Write the picture of the rows of a report."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(report.as_uri())
        page.get_by_role("heading", name="Rows, token by token").evaluate("e => window.scrollTo(0, e.offsetTop - 60)")
        page.screenshot(path=PICTURE)
        browser.close()


def main() -> None:
    """Prepare the conversations, and write the picture of their report."""
    with tempfile.TemporaryDirectory() as directory:
        write_conversations(Path(directory) / "rows.jsonl")
        command = (sys.executable, "-m", "sft_cli", "prepare", *SETTINGS, "prepared_dir=prepared")
        subprocess.run(command, check=True, cwd=directory)
        take_picture(Path(directory) / "prepared/report.html")


if __name__ == "__main__":
    main()
