"""Scores of a real model equal those of a loop over single rows, without packing or batches."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.clean import perplexity
from sft_cli.clean.scorer import PerplexityScorer
from sft_cli.config.paths import resolve
from sft_cli.config.schema.clean import PerplexityConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message, TokenIds
from tests.clean.helpers import chat, document, drop_reasons, run_filter

QUICKSTART = "builtin:quickstart/model"
ROWS = [
    chat("Give the plural of the noun.\n\nhouse", "houses"),
    chat("Name the month after January.", "February"),
    chat("Hello!", "Hi, who are you?", "Guess.", "I think you are a person who likes to ask short questions."),
    chat("Count.", "one two three four five six seven eight nine ten " * 8),
    chat("x " * 300, "A long prompt loses its beginning."),
    chat("Say a lot.", "many words " * 400),
]


def by_hand(path: str, rows: list[Conversation], max_length: int, begin: int) -> list[tuple[float, float]]:
    """Return the perplexity after the prompt and alone, from one forward pass each. The prompt joins all messages."""
    tokenizer = Tokenizer.from_file(str(Path(path) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    def score(before: list[int], ids: list[int]) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([before + ids])).logits[0].double()
        nats = [-logits[i - 1].log_softmax(-1)[id].item() for i, id in enumerate(before + ids) if i >= len(before)]
        return math.exp(sum(nats) / len(nats))

    result = []
    for row in rows:
        *requested, last = row.messages
        before = [begin, *encode("".join(message.content + "\n" for message in requested))]
        ids = encode(last.content)
        ids = ids[: max_length - min(len(before), max_length // 2)]
        before = before[-(max_length - len(ids)) :]
        result.append((score(before, ids), score([begin], ids)))
    return result


def check_against_hand(path: str, begin: int, max_length: int, tokens_per_batch: int) -> None:
    """All scores of ``ROWS`` agree with the loop to 1e-4 relative."""
    config = PerplexityConfig(model=path, max_length=max_length, tokens_per_batch=tokens_per_batch)
    result, report = run_filter(perplexity.find_perplexity, ROWS, config)
    wanted = by_hand(resolve(path), ROWS, max_length, begin)
    assert report["scored"] == len(result) == len(wanted)
    for one, (after_prompt, alone) in zip(result, wanted, strict=True):
        assert one.conversation is not None
        assert one.conversation.scores["perplexity"] == pytest.approx(after_prompt, rel=1e-4)
        assert one.conversation.scores["ifd"] == pytest.approx(after_prompt / alone, rel=1e-4)
        assert one.score == one.conversation.scores["ifd"]


@pytest.mark.parametrize("tokens_per_batch", [128, 8192])
def test_scores_equal_those_of_one_row_at_a_time(tokens_per_batch):
    """The embedded model has no beginning-of-text token: an answer without prompt follows its end-of-text token, 0."""
    check_against_hand(QUICKSTART, begin=0, max_length=128, tokens_per_batch=tokens_per_batch)


@pytest.mark.material
def test_scores_of_a_model_with_a_beginning_of_text_token(material_dir):
    check_against_hand(str(material_dir / "models" / "stories260k"), begin=1, max_length=200, tokens_per_batch=512)


def test_score_does_not_depend_on_batch():
    config = PerplexityConfig(model=QUICKSTART)
    together, _ = run_filter(perplexity.find_perplexity, ROWS, config)
    alone = [run_filter(perplexity.find_perplexity, [row], config)[0][0].score for row in ROWS]
    assert [one.score for one in together] == pytest.approx(alone, rel=1e-5)


def test_perplexity_score_needs_one_document_per_row():
    [result], report = run_filter(
        perplexity.find_perplexity, ROWS[:1], PerplexityConfig(model=QUICKSTART, score="perplexity")
    )
    both, _ = run_filter(perplexity.find_perplexity, ROWS[:1], PerplexityConfig(model=QUICKSTART))
    assert result.conversation is not None
    assert both[0].conversation is not None
    assert result.conversation.scores == {"perplexity": result.score}
    assert both[0].conversation.scores["perplexity"] == pytest.approx(result.score)
    assert report["quartiles"] == [result.score] * 5


def test_bounds_drop_rows_with_their_reasons():
    scores = [
        one.score for one in run_filter(perplexity.find_perplexity, ROWS[:4], PerplexityConfig(model=QUICKSTART))[0]
    ]
    assert None not in scores
    low, *_, high = sorted(score for score in scores if score is not None)
    config = PerplexityConfig(model=QUICKSTART, min_score=low * 1.001, max_score=high / 1.001)
    result, report = run_filter(perplexity.find_perplexity, ROWS[:4], config)
    wanted = {low: "ifd too low", high: "ifd too high"}
    assert drop_reasons(result) == {i: wanted.get(score) for i, score in enumerate(scores)}
    dropped = result[scores.index(high)]
    assert dropped.detail == f"ifd {high:.3f}, above {high / 1.001:g}"
    assert dropped.conversation is None
    assert report["reasons"] == {"ifd too low": 1, "ifd too high": 1}


def test_rows_without_answer_are_kept_unscored():
    rows = [
        document("text"),
        chat("only a question"),
        chat("hi", " "),
        Conversation((), where="a:1", source="a", tokens=TokenIds((1,), (1.0,))),
        ROWS[0],
        ROWS[1],
    ]
    result, report = run_filter(
        perplexity.find_perplexity, rows, PerplexityConfig(model=QUICKSTART, max_score=0.0), frozenset({5})
    )
    assert drop_reasons(result) == {4: "ifd too high"}
    assert (report["scored"], report["not_scored"], report["max_length"]) == (1, 5, 512)


def test_existing_scores_of_a_row_are_kept():
    row = chat("hi", "hello there", scores={"quality": 3.0})
    [result], _ = run_filter(perplexity.find_perplexity, [row], PerplexityConfig(model=QUICKSTART))
    assert result.conversation is not None
    assert result.conversation.scores.keys() == {"quality", "perplexity", "ifd"}


@pytest.fixture
def scorer():
    """Return a scorer with the embedded tokenizer and without a model, to read its token ids."""
    tokenizer = load_tokenizer(QUICKSTART)
    plain = PerplexityScorer(lambda documents: [1.0] * len(documents), tokenizer, None, 16, True)
    return lambda **changes: replace(plain, **changes)


def test_prompt_and_answer_share_the_length(scorer):
    """Within 16 tokens, a long prompt keeps its last tokens and a long answer its first."""
    short, long = "one", "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    encode = scorer().tokenizer.encode_batch
    for requested, output in ((short, short), (long, short), (short, long), (long, long)):
        before, ids = encode([f"{requested}\n", output])
        with_prompt, alone = scorer().documents(chat(requested, output))
        scored = with_prompt.ids[with_prompt.scored_from :]
        assert len(with_prompt.ids) == min(16, 1 + len(before) + len(ids))
        assert list(scored) == ids[: len(scored)]
        assert list(alone.ids) == [0, *scored]
        assert alone.scored_from == 1
        kept = list(with_prompt.ids[: with_prompt.scored_from])
        assert kept == [0, *before][-len(kept) :]
        assert len(kept) >= min(8, 1 + len(before))


def test_chat_template_renders_the_prompt(scorer):
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ 'bot: ' if add_generation_prompt }}"
    templated = scorer(template=ChatTemplate(source, {}, "test"), max_length=512)
    row = Conversation((Message("system", "s"), *chat("a", "b", "c", "d").messages), where="a:1", source="a")
    [with_prompt, _] = templated.documents(row)
    before = templated.tokenizer.encode_batch(["system: s\nuser: a\nassistant: b\nuser: c\nbot: "])[0]
    assert list(with_prompt.ids[: with_prompt.scored_from]) == before
    refusing = scorer(template=ChatTemplate("{{ raise_exception('no') }}", {}, "test"))
    assert refusing.documents(row) == []


MISTAKES = [
    pytest.param(
        {"model": None},
        "clean.perplexity.model: no model for scoring is set\n"
        "  fix: clean.perplexity.model=DIR_OR_HUB_ID, or model.path=DIR_OR_HUB_ID",
        id="no-model",
    ),
    pytest.param(
        {"score": "loss"},
        "clean.perplexity.score: unknown score 'loss'\n"
        "  fix: clean.perplexity.score=ifd, or clean.perplexity.score=perplexity",
        id="score",
    ),
    pytest.param(
        {"min_score": 2.0, "max_score": 1.0},
        "clean.perplexity.min_score: min_score is 2, but max_score is 1: every row would be dropped\n"
        "  fix: clean.perplexity.max_score=2, or remove clean.perplexity.min_score",
        id="bounds",
    ),
    pytest.param(
        {"max_length": 9000},
        "clean.perplexity.max_length: max_length is 9000, more than the 8192 tokens of a batch\n"
        "  fix: clean.perplexity.tokens_per_batch=9000, or clean.perplexity.max_length=8192",
        id="length",
    ),
]


@pytest.mark.parametrize(("config", "message"), MISTAKES)
def test_invalid_settings_are_refused_before_reading_rows(config, message):
    with pytest.raises(SftError) as error:
        perplexity.find_perplexity(None, PerplexityConfig(**{"model": QUICKSTART, **config}))  # pyright: ignore[reportArgumentType]
    assert str(error.value) == message


def test_missing_model_is_reported_under_its_key(tmp_path):
    with pytest.raises(SftError) as error:
        run_filter(perplexity.find_perplexity, ROWS, PerplexityConfig(model=str(tmp_path / "none")))
    assert error.value.where == f"clean.perplexity.model={tmp_path / 'none'}"
    source = Path(resolve(QUICKSTART))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with pytest.raises(SftError) as error:
        run_filter(perplexity.find_perplexity, ROWS, PerplexityConfig(model=str(tmp_path)))
    assert str(error.value) == (
        f"clean.perplexity.model={tmp_path}: {tmp_path} has no config.json\n"
        "  fix: name the directory that save_pretrained wrote"
    )
