"""``report.html`` of a run."""

import json
import re

from sft_cli.run_dir import RunDir
from sft_cli.train.run_report.curves import POINTS, Series, draw
from sft_cli.train.run_report.page import try_write_run_report, write_run_report
from tests.train.reported_run import reported_run


def test_the_page_has_what_the_files_of_the_run_say(tmp_path):
    run = reported_run(tmp_path)
    assert write_run_report(run) == run.path / "report.html"
    text = run.report.read_text()
    titles = re.findall(r"<figcaption><b>(.*?)</b>", text)
    assert titles == [
        "loss (nats per token)", "learning rate", "gradient norm", "throughput (tokens/s)", "peak memory (GiB)",
    ]  # fmt: skip
    assert re.findall(r"<circle.*?<title>(.*?)</title>", text) == ["step 20: 0.2", "step 40: 0.1"]
    assert '<path class="limit"' in text
    assert "estimate 1.0 GiB (50.0%)" in text
    assert re.search(r"exact match</th><td class=\"n\">25.0%</td><td class=\"n\">75.0%", text)
    assert re.search(r"0.2 to 0.8</td><td class=\"n\">4</td>", text)
    assert re.search(
        r'arc.accuracy</th></tr></thead>\s*<tbody>\s*<tr><th scope="row">20</th><td class="n">0.2000', text
    )
    assert "sft train --resume" in text
    assert "interrupted" in text
    sample = re.search(r"<article.*?</article>", text, re.DOTALL)[0]
    assert re.findall(r"<b>(.*?)</b>", sample) == ["base model", "step 20", "step 40"]
    assert "(blank)" in sample
    assert len(sample) < 6000


def test_hostile_texts_of_a_run_stay_text(tmp_path):
    text = write_run_report(reported_run(tmp_path)).read_text()
    assert "<img" not in text
    assert "<script" not in text
    assert text.count("<style>") == text.count("</style>") == 1
    assert "{{ 7 * 7 }}" in text
    assert "\x1b" not in text
    assert text.count("&lt;script&gt;") > 15


def test_a_run_without_steps_has_a_page(tmp_path):
    run = RunDir(tmp_path)
    run.config.write_text("run_name: a\nmodel:\n  path: m\n")
    text = write_run_report(run).read_text()
    assert "<svg" not in text
    assert "new, step 0" in text


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    run = reported_run(tmp_path)
    run.manifest.write_text(json.dumps({"splits": {}, "sources": {"a": 3}}))
    try_write_run_report(run, "finished")
    assert re.match(rf"warning: {run.report} was not written: AttributeError", capsys.readouterr().out)
    assert not run.report.exists()


def test_long_curves_are_averaged():
    chart = draw(Series("loss", [(step, step % 2) for step in range(1, 100_001)]))
    points = [float(point.partition(",")[2]) for point in chart.points.split()]
    assert len(points) <= POINTS
    assert chart.points.split()[-1].startswith("300")
    assert max(points) - min(points) < 1  # every mean is about one half
    assert draw(Series("loss", [(1, 2.0)])) is None
