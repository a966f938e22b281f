"""Probes of the guard against forgetting: their rows, their tokens, and files that cannot be used."""

import json

import pytest

from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.errors import SftError
from sft_cli.prepare.prepare import prepare_data
from sft_cli.train.monitoring.retention_probes import prepare_probes


def test_probes_do_not_change_the_prepared_data(retention_run, questions):
    """No rows of a probe are held out, and the run's data directory does not change."""
    prepared = prepare_data(retention_run.config())
    (probe,) = retention_run.probes(f"probes.words.path={questions}")

    assert (len(probe.split), probe.num_examples) == (4, 4)
    assert prepare_data(retention_run.config()).manifest == prepared.manifest


def test_too_long_probe_rows_are_dropped(retention_run):
    file = retention_run.file("long.jsonl", [{"prompt": "a", "completion": "b" * n} for n in (3, 600)])

    assert retention_run.probes(f"probes.words.path={file}")[0].num_examples == 1


@pytest.mark.parametrize(
    ("content", "words", "where", "problem", "fix"),
    [
        (None, [], ".path", "'{file}' does not exist", None),
        ("", [], ": probe.jsonl", "the source holds no rows", "write rows into it or remove the probe"),
        (
            '{"foo": 1}\n',
            [],
            ".path",
            "no format fits the columns foo; there is no column for the answer to 'foo'",
            'write rows in a format of `sft formats`, such as {"prompt": …, "completion": …}',
        ),
        (
            json.dumps({"prompt": "a", "completion": "b" * 600}) + "\n",
            [],
            "",
            "no row is left, 1 were dropped: 1 too long (probe.jsonl:1; data.overflow=drop)",
            "shorten the rows: the model takes at most 512 tokens",
        ),
        (
            '{"text": "a document"}\n',
            ["probes.math.metric=exact_match"],
            ".metric",
            "metric is exact_match, but the rows are trained as a whole and have no prompt to answer",
            "trainer.retention.probes.math.metric=loss, or trainer.retention.probes.math.path=FILE"
            " with prompts and answers",
        ),
    ],
)
def test_an_unusable_probe_file_is_an_error_before_training(retention_run, content, words, where, problem, fix):
    file = retention_run.directory / "probe.jsonl"
    if content is not None:
        file.write_text(content)

    with pytest.raises(SftError) as refused:
        retention_run.probes(f"probes.math.path={file}", *words)

    assert refused.value.where == f"trainer.retention.probes.math{where}"
    assert refused.value.problem == problem.format(file=file)
    assert fix is None or refused.value.fix == fix


def test_probes_use_the_added_tokens_of_the_run(retention_run):
    """The run's tokenizer already has them: they are not added again."""
    file = retention_run.file("asked.jsonl", [{"prompt": "say it", "completion": "word <x> word"}])
    config = retention_run.config(f"probes.words.path={file}")
    config.model.add_tokens = ["<x>"]
    tokenizer = prepare_data(config).tokenizer_directory

    (probe,) = prepare_probes(config, tokenizer)

    added = load_tokenizer(str(tokenizer)).backend.token_to_id("<x>")
    assert probe.split.tokens(0).input_ids.tolist().count(added) == 1
