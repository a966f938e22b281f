"""Template variables, and attribute lookups in the sandbox."""

import pickle
from datetime import datetime
from pathlib import Path

import pytest

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.masks import parity
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.template.loading import load_template
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.data import DataConfig
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message

THINKS = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}"
)
ASKED = [{"role": "user", "content": "Hi"}]


def load(tokenizer, tmp_path, source=THINKS, **variables):
    """Load the template of a file with variables."""
    (tmp_path / "mine.jinja").write_text(source)
    path = "mine.jinja" if Path.cwd() == tmp_path else str(tmp_path / "mine.jinja")
    return load_template(TemplateConfig(path=path, variables=variables), tokenizer)


def test_variables_reach_every_rendering(tokenizer, tmp_path):
    quiet, plain = load(tokenizer, tmp_path, enable_thinking=False), load(tokenizer, tmp_path)
    assert quiet.render(ASKED, None, prompt=True).endswith("assistant\n<think></think>")
    assert plain.render(ASKED, None, prompt=True).endswith("assistant\n")
    named = load(tokenizer, tmp_path, "{{ place }}: {{ messages[0].content }}{{ eos_token }}", place="Oslo")
    assert [named.render(ASKED, None, prompt=True) for _ in range(2)] == ["Oslo: Hi</s>"] * 2


@pytest.mark.parametrize(
    ("variables", "problem", "fix"),
    [
        (
            {"enable_thinkng": False},
            "template mine.jinja reads no such variable (it reads: enable_thinking)",
            "did you mean template.variables.enable_thinking?\nremove template.variables.enable_thinkng",
        ),
        (
            {"eos_token": "<s>"},
            "every template gets it from the conversation or the tokenizer",
            "remove template.variables.eos_token",
        ),
        (
            {"messages": "no"},
            "every template gets it from the conversation or the tokenizer",
            "remove template.variables.messages",
        ),
    ],
)
def test_variables_without_effect_are_rejected(tokenizer, tmp_path, monkeypatch, variables, problem, fix):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SftError) as caught:
        load(tokenizer, tmp_path, **variables)
    assert caught.value.where == f"template.variables.{next(iter(variables))}"
    assert (caught.value.problem, caught.value.fix) == (problem, fix)


def test_a_template_without_variables_rejects_variables(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SftError) as caught:
        load(tokenizer, tmp_path, "{{ messages[0].content }}{{ eos_token }}{{ raise_exception }}", style="short")
    assert caught.value.problem == "template mine.jinja reads no such variable (it reads none)"


def test_a_server_is_sent_the_variables(build_tokenizer, tmp_path):
    """A client that sends ``enable_thinking: false`` gets the prompt that was trained with it."""
    tokenizer = build_tokenizer(template=THINKS)
    template = load_template(TemplateConfig(variables={"enable_thinking": False}), tokenizer)
    builder = ExampleBuilder(tokenizer, template, DataConfig(), 1000)
    talk = Conversation((Message("user", "Hi"), Message("assistant", "Yo")), "rows.jsonl:1", "mine")
    golden = parity.golden_prompt(builder, talk)
    assert golden.variables == {"enable_thinking": False}
    parity.save_golden_prompts([golden], tmp_path / "golden.json")
    tokenizer.save(tmp_path / "saved")
    assert parity.check_parity(tmp_path / "saved", parity.load_golden_prompts(tmp_path / "golden.json")) == 1
    golden.variables.clear()
    with pytest.raises(SftError, match="a server would send ids that differ from the trained ones"):
        parity.check_parity(tmp_path / "saved", [golden])


def test_keys_of_messages_and_methods_of_dicts():
    """A key with the name of a dict method does not hide the method."""
    message = {"role": "user", "content": "Hi", "items": "three"}
    source = "{{ m.content }}{{ m.missing is defined }}{{ m['items'] }}{{ m.items() | length }}{{ m.get('role') }}"
    template = ChatTemplate("{% set m = messages[0] %}" + source, {}, "mine")
    assert template.render([message], None, prompt=False) == "HiFalsethree3user"


def test_a_used_template_can_be_pickled():
    template = ChatTemplate("{{ strftime_now('%Y') }} {{ messages[0].content }}", {}, "mine", datetime(2020, 2, 29))
    assert template.render(ASKED, None, prompt=True) == "2020 Hi"
    assert pickle.loads(pickle.dumps(template)).render(ASKED, None, prompt=True) == "2020 Hi"
