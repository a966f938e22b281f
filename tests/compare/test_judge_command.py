"""``sft judge`` on answers that are written here, with a judge at a real HTTP server."""

import json
import shutil

import pytest

from sft_cli.cli import execute
from sft_cli.cli.judge import WITHHELD
from sft_cli.errors import SftError
from tests.compare.test_compare import write_run, write_suite
from tests.scoring.judge_server import judge_server

NUMBER = 24

pytestmark = pytest.mark.usefixtures("judge_client")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose answers and base answers to one suite are on disk: two thirds of its answers are better."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = write_run(tmp_path, "a")
    for label, digest in (("tuned", "01234567"), ("base", "89abcdef")):
        path = write_suite(run, {"exact": [1] * NUMBER}, digest=digest, label=label)
        lines = [json.loads(line) for line in (path / "answers.jsonl").read_text().splitlines()]
        for index, line in enumerate(lines):
            is_good = (index % 3 > 0) if label == "tuned" else (index % 3 == 0)
            line["answer"] = f"{'good' if is_good else 'poor'} words of answer {index} in the {label} model"
        (path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def honest(document):
    """Prefer the answer with a certain word, and words to none."""
    a, b = (2 * ("good" in document[f"answer {name}"]) + ("model" in document[f"answer {name}"]) for name in "AB")
    return json.dumps({"explanation": "e", "winner": "A" if a > b else "B" if b > a else "tie"})


def judged(url, *words):
    return execute(["judge", "a", "--suite", "facts", "--model", "m", "--url", url, "--against", "base", *words])


def test_win_rate_is_printed_and_nothing_is_paid_twice(run, capsys):
    with judge_server(honest) as server:
        assert judged(server.url) == 0
        requests = len(server.bodies)
        assert judged(server.url) == 0
        assert len(server.bodies) == requests
    out = capsys.readouterr().out
    assert "win_rate" in out
    assert f"{requests} replies, {requests} of them from the journal" in out
    record = json.loads(next(run.glob("eval/facts-01234567/judge-*/judge.json")).read_text())
    assert record["measured"]["win_rate"]["value"] == pytest.approx(2 / 3)
    assert record["withheld"] == []
    verdicts = next(run.glob("eval/facts-01234567/judge-*/verdicts.jsonl")).read_text().splitlines()
    assert [json.loads(line)["label"] for line in verdicts] == ["loss", "win", "win"] * (NUMBER // 3)


def test_scores_of_a_judge_that_prefers_the_first_answer_are_withheld(run, capsys):
    with judge_server(lambda document: '{"explanation": "e", "winner": "A"}') as server:
        assert judged(server.url) == WITHHELD
    out = capsys.readouterr().out
    assert "withheld" in out
    assert "win_rate " not in out


def test_agreement_with_labels_is_part_of_the_audit(run, tmp_path, capsys):
    labels = tmp_path / "labels.jsonl"
    labels.write_text(
        "".join(json.dumps({"id": f"q{i}", "label": "loss" if i % 3 else "win"}) + "\n" for i in range(9))
    )
    with judge_server(honest) as server:
        assert judged(server.url, "--labels", str(labels)) == WITHHELD
    assert "kappa" in capsys.readouterr().out


def test_an_endpoint_with_faults_gives_the_same_verdicts(run, monkeypatch):
    """429 with Retry-After, 500, a cut connection, a slow reply, HTML and prose: only the prose is paid in addition."""
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *args: 0.01)
    with judge_server(honest) as server:
        assert judged(server.url) == 0
        paid = len(server.bodies)
    folder = next(run.glob("eval/facts-01234567/judge-*"))
    verdicts = (folder / "verdicts.jsonl").read_text()
    measured = json.loads((folder / "judge.json").read_text())["measured"]
    shutil.rmtree(folder)
    replies = iter(["I prefer answer A.", None, "Both are good."])
    faults = [None, 429, 500, "cut", None, "slow", "html", None, 503]
    with judge_server(lambda document: next(replies, None) or honest(document), faults) as server:
        server.headers = {"Retry-After": "0.01"}
        assert judged(server.url, "--timeout", "0.3", "--concurrency", "1") == 0
        assert not server.faults
        assert len(server.bodies) == paid + 2 + 6
    folder = next(run.glob("eval/facts-01234567/judge-*"))
    assert (folder / "verdicts.jsonl").read_text() == verdicts
    record = json.loads((folder / "judge.json").read_text())
    assert record["measured"] == measured
    assert record["usage"]["requests"] == paid + 2
    keys = [json.loads(line)["key"] for line in (folder / "replies.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == paid + 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "fact", "--model", "m"], "a has no results of fact; there are results of facts"),
        (["--suite", "facts", "--model", "m", "--rubric", "none.txt"], "--rubric none.txt: cannot read it"),
        (["--suite", "facts", "--model", "m", "--labels", "bad.jsonl"], "bad.jsonl:1: the line has no id and label"),
        (["--suite", "facts", "--model", "m"], "OPENAI_API_KEY with the key of the endpoint is not set"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(run, tmp_path, words, message):
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(SftError) as error:
        execute(["judge", "a", *words])
    assert message in str(error.value)
    assert not list(run.glob("eval/*/judge-*"))
