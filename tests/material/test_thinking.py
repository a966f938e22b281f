"""Templates whose prompt opens or closes the reasoning: rows that train under each variable and rule."""

import pytest
from test_masks import MATERIAL, talk, with_tokens

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.data import DataConfig, Thinking
from sft_cli.errors import SftError

pytestmark = pytest.mark.material

THOUGHT = "<think>\nwhy\n</think>\n\n"
TALKS = {
    "plain": talk("a", "b", "c", "d"),
    "reasoned": talk("a", f"{THOUGHT}b", "c", f"{THOUGHT}d"),
    "mixed": talk("a", f"{THOUGHT}b", "c", "d"),
}
ON, OFF = {"enable_thinking": True}, {"enable_thinking": False}
TABLE = [
    ("llamacpp/deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", {}, "plain", "plain reasoned mixed"),
    ("llamacpp/deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", ON, "reasoned", ""),
    ("llamacpp/deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", OFF, "plain", "plain reasoned mixed"),
    ("trl/deepseekv3", {}, "reasoned", ""),
    ("llamacpp/deepseek-ai-DeepSeek-V3.1", {}, "plain", "plain reasoned mixed"),
    ("llamacpp/deepseek-ai-DeepSeek-V3.1", ON, "plain reasoned mixed", "plain reasoned mixed"),
    ("llamacpp/deepseek-ai-DeepSeek-V3.1", OFF, "plain", "plain reasoned mixed"),
    ("trl/nemotron_3_nano", {}, "reasoned", ""),
    ("trl/nemotron_3_nano", ON, "reasoned", ""),
    ("trl/nemotron_3_nano", OFF, "plain", "plain reasoned mixed"),
    ("trl/nemotron_3_ultra", {}, "reasoned", ""),
    ("trl/nemotron_3_ultra", ON, "reasoned", ""),
    ("trl/nemotron_3_ultra", OFF, "plain", "plain reasoned mixed"),
    ("llamacpp/google-gemma-4-31B-it", {}, "plain", "plain reasoned mixed"),
    ("llamacpp/google-gemma-4-31B-it", ON, "plain", "plain reasoned mixed"),  # it shows reasoning only before calls
    ("llamacpp/google-gemma-4-31B-it", OFF, "plain", "plain reasoned mixed"),
    ("llamacpp/CohereForAI-c4ai-command-r7b-12-2024-tool_use", {}, "plain", "plain reasoned mixed"),
    ("llamacpp/CohereForAI-c4ai-command-r7b-12-2024-tool_use", ON, "plain", "plain reasoned mixed"),
    ("llamacpp/CohereForAI-c4ai-command-r7b-12-2024-tool_use", OFF, "plain", "plain reasoned mixed"),
    ("trl/qwen3", {}, "plain reasoned mixed", "plain reasoned mixed"),
    ("trl/qwen3", ON, "plain reasoned mixed", "plain reasoned mixed"),
    ("trl/qwen3", OFF, "plain", "plain reasoned mixed"),
    ("trl/qwen3_5_think", {}, "plain reasoned mixed", "plain reasoned mixed"),
    ("trl/qwen3_5_think", ON, "plain reasoned mixed", "plain reasoned mixed"),
    ("trl/qwen3_5_think", OFF, "plain", "plain reasoned mixed"),
    ("trl/glm4moe", {}, "", ""),
    ("trl/glm4moe", ON, "", ""),
    ("trl/glm4moe", OFF, "", ""),
]


def trainable(source, variables, thinking, directory):
    """Return the names of proven conversations; none if the template is refused."""
    tokenizer = load_tokenizer(str(with_tokens(source, directory)))
    template = ChatTemplate(source, tokenizer.special_tokens, "own", variables=variables)
    builder = ExampleBuilder(tokenizer, template, DataConfig(thinking=thinking), 100_000)
    try:
        builder.template_check.check()
    except SftError:
        return ""
    outcomes = zip(TALKS, builder.build(list(TALKS.values())), strict=True)
    return " ".join(name for name, outcome in outcomes if outcome.problem is None)


@pytest.mark.parametrize(("name", "variables", "keep", "strip"), TABLE)
def test_conversations_that_train(name, variables, keep, strip, material_dir, tmp_path):
    source = (MATERIAL / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    assert trainable(source, variables, Thinking.keep, tmp_path / "keep") == keep
    assert trainable(source, variables, Thinking.strip, tmp_path / "strip") == strip
