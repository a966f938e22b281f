"""Languages: recognized and undecided texts, and the rows dropped for them."""

import pytest

from sft_cli.clean import language
from sft_cli.config.schema.clean import LanguageConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message, TokenIds
from sft_cli.utils import optional_deps
from tests.clean.helpers import chat, document, drop_reasons, run_filter

ENGLISH = chat("What is the capital of France?", "The capital of France is the city of Paris.")
GERMAN = chat("Was ist die Hauptstadt von Frankreich?", "Die Hauptstadt von Frankreich ist die Stadt Paris.")
CHINESE = chat("法国的首都是哪里？", "法国的首都是巴黎。")
RUSSIAN = chat("Какой город является столицей Франции?", "Столицей Франции является город Париж.")
NUMBERS = chat("17 + 4 = ?", "21")
FENCED = chat(
    "Wie sortiere ich diese Liste in Python?", "So geht es:\n```python\n# sort the list of the numbers\nx.sort()\n```"
)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        pytest.param(ENGLISH, "en", id="english"),
        pytest.param(GERMAN, "de", id="german"),
        pytest.param(CHINESE, "zh", id="chinese"),
        pytest.param(RUSSIAN, "ru", id="russian"),
        pytest.param(FENCED, "de", id="code-has-no-language"),
        pytest.param(
            document("Ceci est un texte assez long pour être reconnu sans le moindre doute."), "fr", id="document"
        ),
        pytest.param(NUMBERS, None, id="numbers"),
        pytest.param(chat("Hi", "Yes!"), None, id="too-short"),
        pytest.param(
            chat("https://www.example.com/this/is/not/a/language", "a@example.com 12:30"),
            None,
            id="addresses",
        ),
        pytest.param(Conversation((), where="a:1", source="a", tokens=TokenIds((1,), (1.0,))), None, id="token-ids"),
    ],
)
def test_language_of_a_row(row, wanted):
    [(guess, tagged)] = language.detect_languages([row], LanguageConfig())
    assert guess.language == wanted
    assert (tagged is None) == (wanted is None)
    assert tagged is None or tagged.tags == {"language": wanted}


def test_system_and_tool_messages_are_ignored():
    english = "You are a helpful assistant that answers every question as well as it can. " * 5
    row = Conversation((Message("system", english), *GERMAN.messages, Message("tool", english)), where="a", source="a")
    assert language.natural_text(row) == language.natural_text(GERMAN)


def test_every_turn_of_a_long_conversation_is_read():
    row = chat("a " * 5000, "b " * 5000)
    assert len(language.natural_text(row)) <= language.MAX_CHARACTERS + 1
    assert language.natural_text(row).count("a") == language.natural_text(row).count("b")


def test_languages_are_counted_and_others_dropped():
    tagged = chat(*(message.content for message in GERMAN.messages), tags={"language": "de-AT", "task": "qa"})
    result, report = run_filter(
        language.find_language, [ENGLISH, GERMAN, NUMBERS, tagged, CHINESE], LanguageConfig(allowed=["de", "zh"])
    )
    assert report == {"languages": {"de": 2, "en": 1, "zh": 1}, "undecided": 1}
    assert drop_reasons(result) == {0: "language not allowed", 1: None, 4: None}
    assert result[0].detail == f"en ({result[0].score:.2f})"
    assert result[0].conversation is None
    assert result[1].conversation is not None
    assert result[1].conversation.tags == {"language": "de"}


def test_language_without_allowed_keeps_all_rows():
    result, report = run_filter(language.find_language, [ENGLISH, GERMAN], LanguageConfig())
    assert drop_reasons(result) == {0: None, 1: None}
    assert report == {"languages": {"de": 1, "en": 1}, "undecided": 0}


def test_uncertain_guess_does_not_drop_a_row():
    result, report = run_filter(language.find_language, [GERMAN], LanguageConfig(allowed=["en"], min_confidence=1.0))
    assert result == []
    assert report == {"languages": {}, "undecided": 1}


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        ("german", "did you mean de?"),
        ("zh-CN", "did you mean zh?"),
        ("EN", "did you mean en?"),
        ("klingon", "write ISO 639-1 codes such as en, de, zh"),
    ],
)
def test_unknown_language_is_refused_before_reading_rows(code, fix):
    with pytest.raises(SftError) as error:
        language.find_language(None, LanguageConfig(allowed=["en", code]))  # pyright: ignore[reportArgumentType]
    assert str(error.value) == (
        f"clean.language.allowed: {code!r} is not a language that py3langid knows\n  fix: {fix}"
    )


def test_missing_library_is_refused(monkeypatch):
    monkeypatch.setattr(optional_deps, "find_spec", lambda name: None)
    with pytest.raises(SftError) as error:
        language.check_language(LanguageConfig())
    assert str(error.value) == (
        "clean.steps: the step language needs py3langid, which is not installed\n  fix: pip install 'sft-cli[clean]'"
    )
