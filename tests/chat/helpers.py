"""Helpers of the chat tests: a simple tokenizer, conversations, masks as tables."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sft_cli.types import Conversation, Message

SPECIAL = ("<|im_start|>", "<|im_end|>", "<s>", "</s>")
FORGETFUL = """
{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n' -}}
    {{- ('' if loop.index0 >= messages | length - 2 else '(old)') + m.content -}}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}
"""
"""Template that writes a word before all messages except the last two, so that conversations are unrolled."""
ROLES = {"S": "system", "U": "user", "A": "assistant", "T": "tool"}


def letters(*merges):
    """Return a backend with one token per byte and one for each of ``merges`` (two characters)."""
    vocabulary = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in merges:
        vocabulary[byte_level.pre_tokenize_str(text)[0][0]] = len(vocabulary)
    pairs = [tuple(byte_level.pre_tokenize_str(text)[0][0]) for text in merges]
    backend = Tokenizer(models.BPE(vocabulary, pairs))
    backend.pre_tokenizer, backend.decoder = byte_level, decoders.ByteLevel()
    return backend


def talk(*turns, tools=None):
    """Return a conversation: ``talk("U:hi", "A:yo")``; a turn may also be a message."""
    messages = [turn if isinstance(turn, Message) else Message(ROLES[turn[0]], turn[2:]) for turn in turns]
    return Conversation(tuple(messages), "rows.jsonl:7", "mine", tools)


def table(tokenizer, example):
    """Return the text and the weight of each token."""
    return list(zip(tokenizer.decode_batch([[id] for id in example.input_ids]), example.weights, strict=True))


def trained(tokenizer, outcome):
    """Return the trained text of each example, with ``|`` between its runs of tokens."""
    texts = []
    for example in outcome.examples:
        weights = [0.0, *example.weights, 0.0]
        edges = [i for i in range(len(weights) - 1) if (weights[i] > 0) != (weights[i + 1] > 0)]
        until = tokenizer.decode_batch([example.input_ids[:at] for at in edges])
        texts.append("|".join(after[len(before) :] for before, after in zip(until[::2], until[1::2], strict=True)))
    return texts


def text(tokenizer, example):
    """Decode all ids of an example."""
    return tokenizer.decode_batch([example.input_ids])[0]


def problem(outcome, template="chatml"):
    """Return the reason of a rejection, without the text that all such messages share."""
    assert outcome.problem is not None
    assert outcome.problem.where == "rows.jsonl:7"
    start = f"its mask cannot be proven with template {template}: "
    assert outcome.problem.problem.startswith(start)
    return outcome.problem.problem.removeprefix(start)
