"""Accepted answers of BFCL in every form: right as they are, and wrong if changed."""

import json
import random

import pytest

from tests.scoring.items import verdict


def concrete(value):
    """The first accepted value of each key of a dict; other values as they are."""
    if isinstance(value, dict):
        chosen = {key: [option for option in options if option != ""] for key, options in value.items()}
        return {key: concrete(options[0]) for key, options in chosen.items() if options}
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return [concrete(part) for part in value]
    return value


def right_calls(question, answer):
    """Calls with the first accepted values; an argument that the function does not describe is left out."""
    described = {function["name"]: function["parameters"]["properties"] for function in question["function"]}
    for call in answer["ground_truth"]:
        ((name, arguments),) = call.items()
        chosen = {key: [option for option in options if option != ""] for key, options in arguments.items()}
        yield name, {key: concrete(options[0]) for key, options in chosen.items() if options and key in described[name]}


def python(name, arguments):
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def json_call(name, arguments, key="arguments"):
    return json.dumps({"name": name, key: arguments})


FORMS = {
    "python": lambda calls: f"[{', '.join(python(*call) for call in calls)}]",
    "lines": lambda calls: "I call:\n" + "\n".join(python(*call) for call in calls),
    "fenced": lambda calls: "Sure:\n```python\n" + "\n".join(python(*call) for call in calls) + "\n```",
    "json": lambda calls: json.dumps([{"name": name, "arguments": arguments} for name, arguments in calls]),
    "json lines": lambda calls: "\n".join(json_call(*call, key="parameters") for call in calls),
    "bfcl": lambda calls: json.dumps([{name: arguments} for name, arguments in calls]),
    "openai": lambda calls: json.dumps(
        [
            {"function": {"name": name.replace(".", "_"), "arguments": json.dumps(arguments)}}
            for name, arguments in calls
        ]
    ),
    "hermes": lambda calls: "\n".join(f"<tool_call>\n{json_call(*call)}\n</tool_call>" for call in calls),
    "mistral": lambda calls: f"[TOOL_CALLS][{', '.join(json_call(*call) for call in calls)}]",
    "llama": lambda calls: "".join(f"<function={name}>{json.dumps(arguments)}</function>" for name, arguments in calls),
}


def bfcl(material_dir, name):
    """The questions and answers of a file."""
    folder = material_dir / "eval"
    return list(
        zip(json_lines(folder / f"BFCL_v4_{name}.json"), json_lines(folder / f"answers_{name}.json"), strict=True)
    )


def json_lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.material
@pytest.mark.every_change("parallel_multiple-200")
@pytest.mark.parametrize(
    ("name", "count"), [("simple_python", 400), ("multiple", 200), ("parallel", 200), ("parallel_multiple", 200)]
)
def test_every_accepted_answer_of_bfcl_is_right_in_every_form_and_wrong_if_changed(material_dir, name, count):
    pairs = bfcl(material_dir, name)
    assert len(pairs) == count
    shuffler = random.Random(0)
    for number, (question, answer) in enumerate(pairs):
        assert question["id"] == answer["id"]
        fields = {"function": question["function"], "ground_truth": answer["ground_truth"]}
        calls = list(right_calls(question, answer))
        shuffler.shuffle(calls)
        # Each form for every fifth item, and all of them over the file.
        forms = list(FORMS.values())
        for form in (forms[number % len(forms)], forms[(number + 5) % len(forms)]):
            assert verdict("tool_calls", form(calls), **fields).reason == ""
        tool, arguments = calls[0]
        mutants = [
            [(f"{tool}_", arguments), *calls[1:]],
            [(tool, {**arguments, "no such argument": 1}), *calls[1:]],
            [*calls, calls[0]],
            calls[1:],
        ]
        mutants += [[(tool, {**arguments, key: "no such value"}), *calls[1:]] for key in list(arguments)[:2]]
        for mutant in mutants:
            assert verdict("tool_calls", FORMS["json"](mutant), **fields).scores["tool_call"] == 0


@pytest.mark.slow
@pytest.mark.material
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["simple_python", "multiple", "parallel", "parallel_multiple"])
def test_every_form_of_every_item(material_dir, name, form):
    for question, answer in bfcl(material_dir, name):
        fields = {"function": question["function"], "ground_truth": answer["ground_truth"]}
        assert verdict("tool_calls", FORMS[form](list(right_calls(question, answer))), **fields).reason == ""


@pytest.mark.slow
@pytest.mark.material
def test_irrelevance_credits_words_only(material_dir):
    rows = json_lines(material_dir / "eval" / "BFCL_v4_irrelevance.json")
    assert len(rows) == 240
    for row in rows:
        name = row["function"][0]["name"]
        for answer, label in [
            ("I cannot help.", "abstained"),
            (f"{name}(x=1)", "called"),
            (f"<tool_call>{name}", "unparsable"),
        ]:
            assert verdict("tool_abstention", answer, function=row["function"]).label == label
