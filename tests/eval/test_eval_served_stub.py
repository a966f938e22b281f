"""`sft eval NAME eval.engine=openai` at a local HTTP server: requests, faults, limits, and runs that are cut."""

import json
from functools import partial
from pathlib import Path

import openai
import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError
from tests.eval.conftest import QUESTIONS
from tests.scoring.judge_server import judge_server

CUT = "a long answ"


def choice(text, finish="stop", **message):
    return {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}


def capital(document):
    return choice(QUESTIONS[document["name"]])


@pytest.fixture(scope="module")
def connections():
    """The HTTP client of all tests: each one reads the certificates of the system."""
    with openai.DefaultHttpxClient() as client:
        yield client


@pytest.fixture(autouse=True)
def one_client(monkeypatch, connections):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(openai, "OpenAI", partial(openai.OpenAI, http_client=connections))
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *args: 0.01)


@pytest.fixture
def evaluate(tmp_path):
    """Return a function that evaluates the model of a server on five questions."""
    rows = [{"name": name, "city": city} for name, city in QUESTIONS.items()]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "options" / "eval").mkdir(parents=True)
    (tmp_path / "options" / "eval" / "cities.yaml").write_text(
        f'suites:\n  cities:\n    path: {tmp_path}/items.jsonl\n    prompt: \'{{"name": "{{{{ name }}}}"}}\'\n'
        '    target: "{{ city }}"\n    max_new_tokens: 20\n    system: Be short.\n'
    )

    def run(server, *words, target="served") -> int:
        options = ["-d", str(tmp_path / "options"), "eval=cities", "eval.engine=openai", "eval.endpoint.retries=1"]
        return execute(["eval", target, *options, f"eval.endpoint.url={server.url}", *words])

    return run


@pytest.fixture
def results(tmp_path):
    return tmp_path / "home" / "evals" / "served" / "eval"


def answers(results: Path) -> dict[str, dict]:
    (file,) = results.glob("cities-*/answers.jsonl")
    return {json.loads(line)["prompt"].split('"')[-2]: json.loads(line) for line in file.read_text().splitlines()}


def scores(results: Path) -> dict:
    (file,) = results.glob("cities-*/scores.json")
    return json.loads(file.read_text())


def test_answers_are_scored_and_requests_have_the_settings_of_the_suite(evaluate, results):
    with judge_server(capital) as server:
        assert evaluate(server) == 0
        assert scores(results)["metrics"]["exact_match"]["value"] == 1
        assert {line["answer"] for line in answers(results).values()} == set(QUESTIONS.values())
        body = server.bodies[0]
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("served", 20, 0)
        assert body["messages"][0] == {"role": "system", "content": "Be short."}
        assert not {"seed", "top_p", "stop", "tools"} & body.keys()
        assert len(server.bodies) == 5
        assert evaluate(server) == 0
        assert len(server.bodies) == 5  # nothing is asked twice
        assert evaluate(server, target=str(results.parent)) == 0  # the directory of the results names the model
        assert len(server.bodies) == 5
        before = scores(results)
        assert execute(["eval", str(results.parent), "--rescore"]) == 0
        assert scores(results) == before
        words = ["eval.suites.cities.temperature=0.5", "eval.suites.cities.samples=2", "eval.suites.cities.stop=[x]"]
        assert evaluate(server, *words, "template.variables={enable_thinking: false}") == 0
        sampled = server.bodies[5:]
        assert len({body["seed"] for body in sampled}) == len(sampled) == 10
        assert (sampled[0]["temperature"], sampled[0]["stop"]) == (0.5, ["x"])
        assert sampled[0]["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_end_of_an_answer_reasoning_and_calls_are_read_from_the_reply(evaluate, results):
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    replies = {
        "France": choice(CUT, "length"),
        "Japan": choice("<think>hm</think>\nTokyo"),
        "Peru": choice("Lima", reasoning_content="I know it."),
        "Cuba": choice(None, "tool_calls", tool_calls=[call]),
        "Italy": {"message": {"role": "assistant", "content": "Rome, not Milan"}},
    }
    with judge_server(lambda document: replies[document["name"]]) as server:
        assert evaluate(server, "eval.suites.cities.stop=[', not']") == 0
    found = answers(results)
    assert (found["France"]["answer"], found["France"]["stopped"], found["France"]["cut"]) == (CUT, False, True)
    assert (found["Japan"]["answer"], found["Japan"]["reasoning"]) == ("Tokyo", "hm")
    assert (found["Peru"]["answer"], found["Peru"]["reasoning"]) == ("Lima", "I know it.")
    assert found["Cuba"]["answer"] == '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert (found["Italy"]["answer"], found["Italy"]["stopped"]) == ("Rome", True)
    assert {(line["num_tokens"], line["input_tokens"]) for line in found.values()} == {(10, 100)}


def test_faults_are_retried_and_a_failure_keeps_the_answers(evaluate, results):
    with judge_server(capital, [500, "cut", "html"]) as server:
        assert evaluate(server, "eval.endpoint.concurrency=1", "eval.endpoint.retries=3") == 0
        assert len(answers(results)) == 5
    faults = [None, None, 400, *[None] * 9]
    with judge_server(capital, faults) as server:
        words = ["eval.endpoint.concurrency=1", "eval.suites.cities.max_new_tokens=30", "--out", str(results / "x")]
        with pytest.raises(SftError, match="refuses the request") as caught:
            evaluate(server, *words)
        assert caught.value.where == f"model served at {server.url}"
        assert "2 answers kept in " in caught.value.problem
        assert "eval=" not in caught.value.fix
        assert len(server.bodies) == 3
        assert evaluate(server, *words) == 0
        assert len(server.bodies) == 6  # the two answers are not paid again


def test_limits_of_cost_and_tokens_stop_and_the_same_command_continues(evaluate, results, capsys):
    prices = ["eval.endpoint.price_input=10", "eval.endpoint.price_output=100", "eval.endpoint.concurrency=2"]
    with judge_server(capital) as server:
        server.delay = 0.1
        # An answer costs (100 * 10 + 10 * 100) / 1e6 = 0.002.
        assert evaluate(server, *prices, "eval.max_cost=0.003") == 0
        out = capsys.readouterr().out
        paid = len(server.bodies)
        assert 2 <= paid <= 3
        assert "eval.max_cost=0.003 is reached" in out
        assert f"cost {paid * 0.002:.4g}" in out
        assert scores(results)["counts"]["answered"] == paid == len(answers(results))
        assert evaluate(server, *prices, "eval.max_tokens=1") == 0
        assert evaluate(server, *prices) == 0
        assert len(server.bodies) == 5
        assert scores(results)["counts"]["answered"] == 5


def test_requests_are_sent_at_once_and_a_rate_is_kept(evaluate, results):
    with judge_server(capital) as server:
        server.delay = 0.2
        assert evaluate(server, "eval.endpoint.concurrency=3") == 0
        assert server.most_at_once == 3


def test_what_a_server_cannot_answer_is_refused(evaluate, tmp_path, run_of):
    with judge_server(capital) as server:
        table = {
            ("eval.suites.cities.format=text",): "these suites are plain text (format=text): cities",
            ("eval=[cities,arc_easy]",): "no log-likelihoods, which are measured by arc_easy",
            ("eval=[heldout,cities]",): "a server gives no loss of held-out rows",
            ("--compare", "base"): "the server holds one model, not its base",
            ("--processes", "2"): "a server takes several requests at once",
            ("eval.max_cost=1",): "eval.max_cost is set, but eval.endpoint has no prices",
        }
        for words, problem in table.items():
            with pytest.raises(SftError) as caught:
                evaluate(server, *words)
            assert problem in str(caught.value), words
        with pytest.raises(SftError) as caught:
            evaluate(server, target=str(run_of("lora")))
        assert str(caught.value) == (
            "eval.endpoint.model: the model at the server is not named\n  fix: set eval.endpoint.model=NAME"
        )
        assert server.bodies == []
    with pytest.raises(SftError, match="no connection, 2 times"):
        evaluate(server)
    with pytest.raises(SftError, match="OPENAI_API_KEY") as caught:
        execute(["eval", "gpt", "-d", str(tmp_path / "options"), "eval=cities", "eval.engine=openai"])
    assert "give eval.endpoint.url of an endpoint" in caught.value.fix
    with pytest.raises(SftError, match="would have no effect: the engine is local"):
        execute(["eval", str(tmp_path / "lora"), "eval=quick", "eval.endpoint.url=http://localhost"])


def test_a_run_answers_by_a_server_into_its_own_directory(evaluate, run_of):
    run = run_of("lora")
    with judge_server(capital) as server:
        assert evaluate(server, "eval.endpoint.model=m", target=str(run)) == 0
    (definition,) = (run / "eval").glob("cities-*/suite.json")
    model = json.loads(definition.read_text())["model"]
    assert model == {"label": "tuned", "engine": "openai", "url": server.url, "served": "m"}
