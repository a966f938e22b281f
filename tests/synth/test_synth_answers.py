"""Answers to given prompts: what becomes a row, what is dropped and why, what is paid."""

import json

import pytest

from sft_cli.config.schema.synth import CheckConfig, Generator, KeepAnswers, PromptsConfig, SynthConfig
from sft_cli.errors import SftError
from sft_cli.synth.answers import reject, respond
from tests.synth.teacher_stub import Stub


def write_prompts(folder, rows):
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PromptsConfig(path=str(file), prompt="{{ q }}", target="{{ a }}", id="{{ id }}")


SUMS = [{"id": str(number), "q": f"What is {number} + 1?", "a": str(number + 1)} for number in range(6)]


def test_respond_drops_what_no_row_should_contain_and_counts_why(tmp_path):
    replies = {0: "1", 1: "", 2: "It is [cut]", 3: "As an AI, I say 4", 4: "5", 5: "6"}
    stub = Stub(lambda text, sample: replies[int(text.split()[2])])
    config = SynthConfig(prompts=write_prompts(tmp_path, SUMS), drop_phrases=["as an ai"])
    with stub.session(config, tmp_path) as session:
        made = respond(config, session)
    assert [row["messages"][-1]["content"] for row in made.rows] == ["1", "5", "6"]
    assert made.counts == {"kept": 3, "empty": 1, "cut at max_new_tokens": 1, "phrase: as an ai": 1}
    source = made.rows[0]["synth"]
    assert source["generator"] == "respond"
    assert source["parents"] == ["0"]
    assert len(source["requests"]) == 1


def test_system_messages_are_chosen_by_the_seed_and_kept_in_the_row(tmp_path):
    config = SynthConfig(prompts=write_prompts(tmp_path, SUMS), systems=["explain", "none"])
    stub = Stub(lambda text, sample: "an answer")
    with stub.session(config, tmp_path) as session:
        rows = [respond(config, session).rows, respond(config, session).rows]
    assert rows[0] == rows[1]
    roles = [[message["role"] for message in row["messages"]] for row in rows[0]]
    assert {len(one) for one in roles} == {2, 3}
    assert all(("explain" in row["synth"]["prompts"]) == (len(row["messages"]) == 3) for row in rows[0])
    assert len(stub.asked) == 6


def test_reject_keeps_right_answers_and_estimates_pass_at_k(tmp_path):
    def reply(text, sample):
        number = int(text.split()[2])
        return [str(number + 1), f" {number + 1}", "7", "8"][sample] if number < 3 else "9"

    for keep, expected in ((KeepAnswers.best, ["1", "2", "3"]), (KeepAnswers.all, ["1", "2", "3"])):
        config = SynthConfig(
            generator=Generator.reject, prompts=write_prompts(tmp_path, SUMS), samples=4, keep=keep,
            check=CheckConfig(scorers=["exact_match"]),
        )  # fmt: skip
        with Stub(reply).session(config, tmp_path) as session:
            made = reject(config, session)
        assert [row["messages"][-1]["content"].strip() for row in made.rows] == expected
    assert made.counts == {"kept": 3, "correct, repeated": 3, "wrong": 18}
    # 3 of 6 prompts have 2 correct answers of 4: pass@1 = 1/2 each, pass@2 = 1 - C(2, 2) / C(4, 2) = 5/6.
    assert made.figures == pytest.approx({"pass@1": 1 / 4, "pass@2": 5 / 12, "pass@4": 1 / 2})


def test_more_samples_ask_only_for_the_new_ones(tmp_path):
    stub = Stub(lambda text, sample: f"{sample}")
    for samples in (2, 3):
        config = SynthConfig(generator=Generator.reject, prompts=write_prompts(tmp_path, SUMS), samples=samples)
        with stub.session(config, tmp_path) as session:
            reject(config, session)
    assert len(stub.asked) == 6 * 3
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 18


def test_a_limit_of_tokens_counts_replies_of_earlier_commands(tmp_path):
    stub = Stub(lambda text, sample: "one two")
    config = SynthConfig(prompts=write_prompts(tmp_path, SUMS), max_tokens=4)
    for _ in range(2):
        with stub.session(config, tmp_path) as session:
            made = respond(config, session)
        assert session.stopped == "synth.max_tokens=4"
        assert made.counts == {"kept": 2, "not asked": 4}
    assert len(stub.asked) == 2


def test_where_chooses_rows_and_none_is_an_error(tmp_path):
    prompts = write_prompts(tmp_path, SUMS)
    prompts.where = "{{ a | int > 4 }}"
    config = SynthConfig(prompts=prompts)
    with Stub(lambda text, sample: "x").session(config, tmp_path) as session:
        assert len(respond(config, session).rows) == 2
        prompts.where = "{{ a | int > 40 }}"
        with pytest.raises(SftError, match="no row of"):
            respond(config, session)


def test_a_missing_column_names_the_keys_of_synth(tmp_path):
    prompts = write_prompts(tmp_path, SUMS)
    prompts.prompt = "{{ question }}"
    config = SynthConfig(prompts=prompts)
    with Stub(lambda text, sample: "x").session(config, tmp_path) as session, pytest.raises(SftError) as caught:
        respond(config, session)
    assert "synth.prompts.prompt" in caught.value.problem
    assert "eval.suites" not in str(caught.value)
