"""Measure the peak memory of `sft prepare` on a large generated JSONL file.

    python scripts/bench/bench_prepare_memory.py --gigabytes 5 --tokenizer DIR --workdir DIR

The rows are random words of the package's source, questions of 5 to 40 and answers of 20 to 400 words, in Alpaca's
columns. The memory of the process and all its workers is sampled twice a second: resident (RSS, which counts shared
pages and page cache in each process) and private (USS).
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2] / "sft_cli"
"""Source of the words: English ones, so that tokens are as long as in real text."""


def write_rows(file: Path, size: float) -> int:
    """Write rows of about ``size`` bytes in total, and return their number."""
    drawn = random.Random(0)
    texts = (source.read_text(encoding="utf-8") for source in sorted(ROOT.rglob("*.py")))
    words = sorted({word for text in texts for word in re.findall(r"\b[a-z]{1,12}\b", text)})
    written = rows = 0
    with open(file, "w", encoding="utf-8") as out:
        while written < size:
            question = " ".join(drawn.choices(words, k=drawn.randint(5, 40)))
            answer = " ".join(drawn.choices(words, k=drawn.randint(20, 400)))
            written += out.write(json.dumps({"instruction": question, "output": answer}) + "\n")
            rows += 1
    return rows


def memory(process: psutil.Process) -> tuple[int, int]:
    """Return the resident and private bytes of a process and its children."""
    resident = private = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            used = one.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        resident, private = resident + used.rss, private + used.uss
    return resident, private


def main() -> None:
    """Generate the rows, prepare them, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="further key=value words for sft prepare")
    given = parser.parse_args()
    given.workdir.mkdir(parents=True, exist_ok=True)
    file = given.workdir / f"rows-{given.gigabytes:g}.jsonl"
    if not file.exists():
        write_rows(file, given.gigabytes * 1e9)
    words = [f"data.mix.local.path={file}", f"model.tokenizer={given.tokenizer}", "data=local", *given.overrides]
    began = time.perf_counter()
    environment = {**os.environ, "SFT_HOME": str(given.workdir / "home")}
    process = psutil.Popen([sys.executable, "-m", "sft_cli", "prepare", *words], env=environment)
    peaks = (0, 0)
    while True:
        try:
            code = process.wait(timeout=0.5)
            break
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            peaks = tuple(map(max, peaks, memory(process)))
    seconds = time.perf_counter() - began
    resident, private = (peak / 2**20 for peak in peaks)
    print(
        f"{file.stat().st_size / 1e9:.2f} GB, exit {code}, {seconds:.0f} s,"
        f" peak resident {resident:,.0f} MiB, private {private:,.0f} MiB"
    )


if __name__ == "__main__":
    main()
