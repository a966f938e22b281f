"""A judge at a real HTTP server in this process: faults, limits, the journal, and a run that is cut and resumed."""

import json
from functools import partial

import openai
import pytest

from sft_cli.endpoint.client import Completion, RateLimiter
from sft_cli.endpoint.journal import open_completions
from sft_cli.errors import SftError
from sft_cli.scoring.judge.endpoint import endpoint
from sft_cli.scoring.judge.prompts import rating
from sft_cli.scoring.judge.replies import has_rating
from sft_cli.scoring.judge.session import JudgeSession
from sft_cli.scoring.judge.settings import JudgeSettings
from sft_cli.scoring.types import Item
from tests.scoring.judge_server import judge_server

ITEMS = [Item(f"q{number}", ({"role": "user", "content": f"Question {number}"},)) for number in range(8)]
REQUESTS = [rating(item, "an answer", (1, 10)) for item in ITEMS]
FAST = {"Retry-After": "0.01", "retry-after-ms": "10"}


def seven(document):
    return json.dumps({"explanation": "fine", "rating": 7})


def settings(url, **changed):
    return JudgeSettings(**{"model": "m", "base_url": url, "timeout": 5, "retries": 2, "concurrency": 2, **changed})


@pytest.fixture
def no_pauses(monkeypatch):
    """Let the client try again at once where the server names no time."""
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *args: 0.01)


def asked(server, folder, requests=REQUESTS, **changed):
    """Return the ratings, and the usage, of one session."""
    chosen = settings(server.url, **changed)
    with JudgeSession(endpoint(chosen), chosen, folder / "judge.jsonl") as session:
        replies = session.ask(requests, has_rating(1, 10))
        return [reply and reply["rating"] for reply in replies], session.usage


@pytest.fixture(scope="module")
def connections():
    """The HTTP client of all tests: each one reads the certificates of the system."""
    with openai.DefaultHttpxClient() as client:
        yield client


@pytest.fixture(autouse=True)
def one_client(monkeypatch, connections):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(openai, "OpenAI", partial(openai.OpenAI, http_client=connections))


def test_replies_usage_and_form_of_the_request(tmp_path):
    with judge_server(seven) as server:
        ratings, usage = asked(server, tmp_path, price_input=2, price_output=10)
    assert ratings == [7] * 8
    assert (usage.requests, usage.from_journal, usage.input_tokens, usage.output_tokens) == (8, 0, 800, 80)
    assert (usage.cost, usage.estimated) == (pytest.approx((800 * 2 + 80 * 10) / 1e6), 0)
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["response_format"]["type"]) == ("m", 0, "json_schema")
    assert body["response_format"]["json_schema"]["schema"]["properties"]["rating"]["maximum"] == 10
    assert sorted(document["conversation"][0]["content"] for document in server.documents) == [
        f"Question {number}" for number in range(8)
    ]


@pytest.mark.usefixtures("no_pauses")
def test_faults_that_pass_are_retried(tmp_path):
    """429 with Retry-After, 500, a cut connection, HTML and JSON of another kind: the same ratings, each paid once."""
    with judge_server(seven, [429, 500, "cut", "html", "no choices", 503]) as server:
        server.headers = FAST
        ratings, usage = asked(server, tmp_path, concurrency=1, retries=5)
    assert ratings == [7] * 8
    assert (usage.requests, len(server.bodies)) == (8, 14)


def test_a_second_session_pays_nothing(tmp_path):
    with judge_server(seven) as server:
        asked(server, tmp_path)
        ratings, usage = asked(server, tmp_path, price_input=2)
    assert (ratings, len(server.bodies)) == ([7] * 8, 8)
    assert (usage.requests, usage.from_journal, usage.input_tokens) == (8, 8, 800)
    assert usage.cost == pytest.approx(800 * 2 / 1e6)


def test_equal_requests_are_sent_once(tmp_path):
    with judge_server(seven) as server:
        ratings, usage = asked(server, tmp_path, [REQUESTS[0]] * 5)
    assert (ratings, usage.requests, len(server.bodies)) == ([7] * 5, 1, 1)


def test_a_run_that_is_cut_continues_where_it_was(tmp_path):
    """After four replies the endpoint is down, and a kill leaves half a line; then it is up again."""
    with judge_server(seven, [None] * 4 + [503] * 9) as server:
        server.headers = FAST
        with pytest.raises(SftError, match=r"fails with status 503, 3 times.*; 4 replies are kept in") as caught:
            asked(server, tmp_path, concurrency=1)
        assert "run the same command again: it continues" in caught.value.fix
        paid = len((tmp_path / "judge.jsonl").read_text().splitlines())
        with (tmp_path / "judge.jsonl").open("a") as journal:
            journal.write('{"key": "abc", "rep')
        server.faults.clear()
        before = len(server.bodies)
        ratings, usage = asked(server, tmp_path)
        assert (ratings, paid, usage.from_journal) == ([7] * 8, 4, 4)
        assert len(server.bodies) - before == 4
    assert len((tmp_path / "judge.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("faults", "problem", "fix"),
    [
        ([401], "the endpoint refuses the key (status 401)", "set the environment variable OPENAI_API_KEY"),
        ([404], "the endpoint knows no such model or address", "set --model"),
        ([400], "the endpoint refuses the request (status 400): ", "--response-format none"),
        ([429] * 3, "the endpoint limits the rate, still after 3 tries", "--requests-per-minute"),
        ([500] * 3, "the endpoint fails with status 500, 3 times", "look at its log"),
        (["cut"] * 3, "no connection, 3 times", "start the endpoint"),
        (["slow"] * 3, "no reply within 0.2 s, 3 times", "raise --timeout"),
        (["html"] * 3, "with status 200, but not with a chat completion", "check that --url"),
        (["no choices"] * 3, "with status 200, but not with a chat completion", "often in /v1"),
    ],
)
@pytest.mark.usefixtures("no_pauses")
def test_faults_that_stay_are_one_sentence(tmp_path, faults, problem, fix):
    with judge_server(seven, faults) as server, pytest.raises(SftError) as caught:
        asked(server, tmp_path, REQUESTS[:1], timeout=0.2 if "slow" in faults else 5, concurrency=1)
    assert problem in caught.value.problem
    assert fix in caught.value.fix
    assert "\n" not in str(caught.value.problem)
    assert "0 replies are kept" in caught.value.problem


@pytest.mark.usefixtures("no_pauses")
def test_an_endpoint_that_is_not_there(tmp_path):
    with judge_server(seven) as server:
        pass
    with pytest.raises(SftError, match="no connection, 3 times"):
        asked(server, tmp_path)


def test_prose_is_requested_again_and_then_counted(tmp_path):
    """The first reply is prose, the second JSON; a reply that stays prose is a failure, and no rating."""
    seen = []

    def prose_first(document):
        seen.append(document)
        return "I would say 9 out of 10." if len(seen) == 1 else seven(document)

    with judge_server(prose_first) as server:
        assert asked(server, tmp_path, REQUESTS[:1])[0] == [7]
        assert "must be the JSON object alone" in server.bodies[1]["messages"][0]["content"]
        assert "must be the JSON object alone" not in server.bodies[0]["messages"][0]["content"]
    with judge_server(lambda document: "Rating: 9") as server:
        chosen = settings(server.url)
        done = []
        with JudgeSession(endpoint(chosen), chosen, tmp_path / "other.jsonl", lambda: done.append(1)) as session:
            assert session.ask(REQUESTS[:3], has_rating(1, 10)) == [None] * 3
            assert session.parse_failures == (3, 3)
            assert (session.usage.requests, len(done)) == (6, 3)


def test_an_empty_reply_counts_as_paid(tmp_path):
    with judge_server(seven, ["null"]) as server:
        ratings, usage = asked(server, tmp_path, REQUESTS[:1])
    assert (ratings, usage.requests) == ([7], 2)


def test_tokens_are_estimated_where_the_endpoint_reports_none(tmp_path):
    with judge_server(seven) as server:
        server.usage = False
        usage = asked(server, tmp_path, REQUESTS[:2])[1]
    assert usage.estimated == 2
    assert usage.output_tokens == 2 * -(-len(seven({})) // 4)


def test_no_more_requests_at_once_than_allowed(tmp_path):
    with judge_server(seven) as server:
        server.delay = 0.03
        asked(server, tmp_path, concurrency=3)
        assert 1 < server.most_at_once <= 3


COST, TOKENS = {"max_cost": 3.5e-4, "price_input": 1}, {"max_total_tokens": 300}


@pytest.mark.parametrize(
    ("limit", "problem", "option"),
    [
        (COST, "cost 0.0004, the limit is 0.00035", "--max-cost"),
        (TOKENS, "used 330 tokens, the limit is 300", "--max-tokens"),
    ],
)
def test_limits_stop_and_a_higher_limit_continues(tmp_path, limit, problem, option):
    with judge_server(seven) as server:
        with pytest.raises(SftError, match=problem) as caught:
            asked(server, tmp_path, concurrency=1, **limit)
        assert f"raise {option}, and" in caught.value.fix
        stopped = len(server.bodies)
        assert stopped in (3, 4)
        assert asked(server, tmp_path)[1].from_journal == stopped
        assert len(server.bodies) == 8


def test_requests_per_minute_spread_requests(monkeypatch):
    now, slept = [100.0], []
    monkeypatch.setattr("sft_cli.endpoint.client.time.monotonic", lambda: now[0])
    monkeypatch.setattr("sft_cli.endpoint.client.time.sleep", slept.append)
    limiter = RateLimiter(120)
    for _ in range(3):
        limiter.wait()
    assert slept == [0, 0.5, 1.0]
    now[0] = 200.0
    limiter.wait()
    assert slept[3] == 0
    RateLimiter(0).wait()
    assert len(slept) == 4


def test_a_key_is_needed_unless_there_is_a_base_url(monkeypatch):
    with pytest.raises(SftError, match="OPENAI_API_KEY with the key of the endpoint is not set"):
        endpoint(JudgeSettings("m"))
    monkeypatch.setenv("MY_KEY", "secret")
    endpoint(JudgeSettings("m", api_key_variable="MY_KEY"))


def test_the_client_is_optional(monkeypatch):
    monkeypatch.setattr("sft_cli.endpoint.client.find_spec", lambda name: None)
    with pytest.raises(SftError, match=r"pip install 'sft-cli\[eval\]'"):
        endpoint(JudgeSettings("m"))


def test_a_journal_belongs_to_one_process_and_has_whole_lines(tmp_path):
    file = tmp_path / "eval" / "judge.jsonl"
    journal = open_completions(file, "another process is judging the same answers")
    journal.add("a", Completion("{}", 1, 2, 0.5, estimated=True))
    with pytest.raises(SftError, match="another process is judging"):
        open_completions(file, "another process is judging the same answers")
    journal.close()
    journal = open_completions(file, "another process is judging the same answers")
    assert (journal.get("a"), journal.get("b"), len(journal)) == (Completion("{}", 1, 2, 0.5, True), None, 1)
    journal.close()
    file.write_text("{}\n" + file.read_text())
    with pytest.raises(SftError, match=r"judge.jsonl:1: this is not a line of a journal"):
        open_completions(file, "another process is judging the same answers")


def test_requests_differ_by_all_that_the_reply_depends_on():
    key = REQUESTS[0].key("m", 0.0, 100)
    others = [REQUESTS[0].key("n", 0.0, 100), REQUESTS[0].key("m", 0.5, 100), REQUESTS[0].key("m", 0.0, 99)]
    others += [REQUESTS[1].key("m", 0.0, 100), rating(ITEMS[0], "an answer", (1, 5)).key("m", 0.0, 100)]
    assert len({key, *others}) == 6
    assert rating(ITEMS[0], "an answer", (1, 10)).key("m", 0.0, 100) == key
