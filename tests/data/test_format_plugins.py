"""Formats of installed packages: pip installs small distributions, which are found by their entry points."""

import subprocess
import sys
import zipfile

import pytest

from sft_cli.config.schema.data import Role, SourceConfig
from sft_cli.data.formats import registry
from sft_cli.data.formats.row_converter import format_package, make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError
from sft_cli.types import Message, Row
from sft_cli.utils.entry_points import entry_points_by_name

CODE = '''
"""Formats of medical notes."""

def messages(row):
    return [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]

def fields(row):
    row["q"] = "changed"
    return {"messages": messages(row), "tools": [{"name": "f"}]}

def text(row):
    return row["q"] + row["a"]

def anything(row):
    return row["value"]

def pieces(row):
    return {"message_id": "a", "parent_id": None, "text": "Q", "role": "user"}

def stream(row):
    for text in (row["q"], row["a"]):
        yield {"role": "user" if text == row["q"] else "assistant", "content": text, "name": {1: (2, text)}}

number = 5
'''
POINTS = """[sft_cli.formats]
medical = notes:messages
medical_tools = notes:fields
medical_text = notes:text
anything = notes:anything
pieces = notes:pieces
stream = notes:stream
number = notes:number
absent = no_such_module_of_notes:f
absent_deeper = no_such_package_of_notes.module:f
alpaca = notes:messages
"""
OTHER_POINTS = "[sft_cli.formats]\ntwice = notes:messages\n"


def wheel(folder, name, files, points):
    """Build the wheel of a package ``name`` 1.2 by hand."""
    info = f"{name}-1.2.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": points,
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return path


@pytest.fixture(scope="module")
def installed_packages(tmp_path_factory):
    """Return a directory with three packages that pip installed."""
    folder, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    wheels = [
        wheel(folder, "notes_formats", {"notes.py": CODE}, POINTS),
        wheel(folder, "one_more", {}, OTHER_POINTS),
        wheel(folder, "another", {}, OTHER_POINTS),
    ]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*command, *map(str, wheels)], check=True, capture_output=True)
    return target


@pytest.fixture
def packages(installed_packages, monkeypatch):
    monkeypatch.syspath_prepend(str(installed_packages))
    monkeypatch.delitem(sys.modules, "notes", raising=False)
    entry_points_by_name.cache_clear()
    yield installed_packages
    entry_points_by_name.cache_clear()


def convert(format, values, **config):
    result = make_converter(SourceConfig(format=format, **config), "mine", "\n\n", values)
    (made,) = result.convert(Row(values, "a:1", "mine"))
    return made


QA = {"q": "Q {{name}}", "a": "A", "kind": "k"}


def test_call_format_accepts_all_return_types(packages):
    exchange = (Message("user", "Q Ada"), Message("assistant", "A"))
    result = convert("medical", QA, variables={"name": "Ada"}, tags={"task": "kind"})
    assert (result.messages, result.tags) == (exchange, {"task": "k"})
    assert convert("medical_tools", QA).tools == ({"name": "f"},)
    assert QA["q"] == "Q {{name}}", "a function gets a copy of the row"
    assert convert("medical_text", QA, role=Role.replay).text == "Q {{name}}A"


def test_function_can_yield_messages(packages):
    """Any mappings and sequences are converted to the types that JSON gives."""
    result = convert("stream", {"q": "Q", "a": "A"})
    assert result.messages == (
        Message("user", "Q", extra={"name": {"1": [2, "Q"]}}),
        Message("assistant", "A", extra={"name": {"1": [2, "A"]}}),
    )
    with pytest.raises(RowError, match="the format stream raised KeyError: 'a'"):
        convert("stream", {"q": "Q"})


def test_format_has_a_name_for_the_manifest_and_a_fingerprint(packages):
    source = SourceConfig(format="medical")
    assert make_converter(source, "mine", "\n\n", ()).name == "medical (notes_formats 1.2)"
    before = format_package(source)
    assert before is not None
    assert before.startswith("medical (notes_formats 1.2) ")
    assert format_package(SourceConfig()) is format_package(SourceConfig(format={"text": "{{ x }}"})) is None
    code = packages / "notes.py"
    code.write_text(CODE + "\n")
    assert format_package(source) != before
    code.write_text(CODE)
    assert format_package(source) == before
    for broken in ("absent", "absent_deeper"):
        assert format_package(SourceConfig(format=broken)).startswith(f"{broken} (notes_formats 1.2) ")


def test_list_of_formats_includes_plugins(packages):
    assert (
        "\n\nmedical (notes_formats 1.2): from an installed package, notes:messages\n\n" in registry.describe_formats()
    )


@pytest.mark.parametrize(
    ("format", "values", "reason", "expected"),
    [
        (
            "medical", {"a": "A"}, "format medical failed",
            "the format medical raised KeyError: 'q'\n"
            "  fix: correct the row or the format",
        ),
        (
            "anything", {"value": [{("a", "b"): 1}]}, "format anything failed",
            "the format anything raised TypeError: keys must be str, int, float, bool or None, not tuple\n"
            "  fix: correct the row or the format",
        ),
        (
            "anything", {"value": None}, "format anything returned no messages",
            "the format anything returned None; expected messages, fields or a text\n"
            "  fix: change the function to return [{'role': …, 'content': …}, …]",
        ),
        (
            "anything", {"value": {"mesages": []}}, "format anything returned unknown fields",
            "the format anything returned mesages, which fits no format\n"
            "  fix: change the function to return messages, {'messages': …, 'tools': …} or a text",
        ),
        (
            "anything", {"value": {}}, "format anything returned unknown fields",
            "the format anything returned nothing, which fits no format\n"
            "  fix: change the function to return messages, {'messages': …, 'tools': …} or a text",
        ),
        (
            "pieces", {}, "format pieces returned unknown fields",
            "the format pieces returned message_id, parent_id, text, role, which fits no format\n"
            "  fix: change the function to return messages, {'messages': …, 'tools': …} or a text",
        ),
        (
            "anything", {"value": [{"role": "user", "content": "Q"}]}, "no assistant turn",
            "field 'messages' has 1 message (user), none of the assistant; there is nothing to learn to say\n"
            "  fix: add the assistant's answer or remove the row",
        ),
    ],
)  # fmt: skip
def test_invalid_results_of_a_plugin_are_refused(packages, format, values, reason, expected):
    with pytest.raises(RowError) as caught:
        convert(format, values)
    assert (str(caught.value), caught.value.reason) == (f"a:1: {expected}", reason)


def test_replay_of_conversations_is_refused_per_row(packages):
    with pytest.raises(RowError) as caught:
        convert("medical", QA, role=Role.replay)
    assert str(caught.value) == (
        "a:1: role=replay trains whole documents as plain text, but the row is a conversation\n"
        "  fix: data.mix.mine.role=instruct, or train one column as documents: "
        f"data.mix.mine.format=text 'data.mix.mine.columns={{text: {list(QA)[-1]}}}'"
    )


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        (
            "alpaca",
            "more than one format has the name 'alpaca': sft itself, alpaca (notes_formats 1.2)\n"
            "  fix: uninstall all but one of the packages, or rename the entry point",
        ),
        (
            "absent",
            "the format absent (notes_formats 1.2) cannot be imported: "
            "ModuleNotFoundError: No module named 'no_such_module_of_notes'\n"
            "  fix: repair or reinstall the package; its entry point is no_such_module_of_notes:f",
        ),
        (
            "number",
            "the format number (notes_formats 1.2) is 5, not a function of a row\n"
            "  fix: change the entry point notes:number to name a function",
        ),
    ],
)
def test_invalid_plugins_are_refused(packages, format, expected):
    with pytest.raises(SftError) as caught:
        make_converter(SourceConfig(format=format), "mine", "\n\n", ())
    assert str(caught.value) == f"data.mix.mine.format: {expected}"


def test_format_name_of_two_packages_is_refused(packages):
    with pytest.raises(SftError) as caught:
        make_converter(SourceConfig(format="twice"), "mine", "\n\n", ())
    assert caught.value.problem in (
        f"more than one format has the name 'twice': twice ({one} 1.2), twice ({two} 1.2)"
        for one, two in (("one_more", "another"), ("another", "one_more"))
    )


def test_unknown_format_suggests_a_name(packages):
    with pytest.raises(SftError) as caught:
        make_converter(SourceConfig(format="medicl"), "mine", "\n\n", ())
    assert caught.value.fix == "data.mix.mine.format=medical"


def test_columns_with_a_plugin_are_refused(packages):
    with pytest.raises(SftError) as caught:
        make_converter(SourceConfig(format="medical", columns={"messages": "x"}), "mine", "\n\n", ())
    assert caught.value.problem == ("the key has no effect: the format medical (notes_formats 1.2) does not read it")
