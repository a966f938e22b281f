"""Lines of check results, and the exit code."""

import pytest

from sft_cli.check.results import CheckReport, fail, ok, warn
from sft_cli.errors import SftError, raise_all


def test_result_line_shows_status_and_fix():
    line = warn("memory", "about 10 GiB", "gpu=24GB", ["weights 5 GiB"])
    assert str(line) == ("warn  memory    about 10 GiB\n                weights 5 GiB\n                do: gpu=24GB")


@pytest.mark.parametrize(
    ("lines", "code"), [([ok("a", "b"), warn("a", "b", "c")], 0), ([ok("a", "b"), fail("a", "b", "c")], 1)]
)
def test_only_a_failure_fails(lines, code, capsys):
    report = CheckReport()
    report.add(*lines)
    assert report.finish("checked", "sft train") == code
    assert ("next: sft train" in capsys.readouterr().out) == (code == 0)


def test_checks_after_a_mistake_still_run(capsys):
    report = CheckReport()
    with report.section("data"):
        raise_all([SftError(where=place, problem="wrong", fix="mend it") for place in ("rows.jsonl:1", "rows.jsonl:2")])
    report.add(ok("disk", "enough"))
    assert [(line.name, line.status.value, line.text) for line in report.lines] == [
        ("data", "fail", "rows.jsonl:1: wrong"), ("data", "fail", "rows.jsonl:2: wrong"), ("disk", "ok", "enough"),
    ]  # fmt: skip
