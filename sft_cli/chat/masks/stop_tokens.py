"""Find the end of an answer: the stop token that the model must learn to write."""

from functools import cached_property

from sft_cli.chat.masks.sentinels import SentinelMarker
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.utils.text import common_prefix_length

PROBE_EXCHANGE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


class StopTokenFinder:
    """Find the stop tokens that one template writes."""

    def __init__(self, template: ChatTemplate, marker: SentinelMarker) -> None:
        self._template, self._marker = template, marker

    def find(self, text: str, start: int) -> tuple[str, int]:
        """Return the stop token of the turn that begins at ``start`` and ends the text, and the position after it.

        Raises:
            RenderError: There is no stop token.
        """
        end, candidates = len(text.rstrip()), []
        if self.prompt_tail and text.endswith(self.prompt_tail):
            end = len(text[: -len(self.prompt_tail)].rstrip())
        for match in reversed(list(self._marker.find_control_tokens(text, start, end))):
            if text[match.end() : end].strip():
                break
            candidates.append(match)
            end = match.start()
        if not candidates:
            tail = text[max(start, end - 20) : end]
            raise RenderError(
                f"the answer ends in {tail!r}, not in a special token of the tokenizer:"
                " the model would never learn to stop"
            )
        stop = candidates[0]
        if len(candidates) > 1:
            stop = next((match for match in reversed(candidates) if match.group() == self._lasting_stop_token), stop)
        if stop.group() in self._prompt_control_tokens:
            raise RenderError(
                f"the answer ends in {stop.group()!r}, which also begins every answer:"
                " the model would never learn to stop"
            )
        return stop.group(), stop.end()

    @cached_property
    def prompt_tail(self) -> str:
        """The answer header that a template writes after every text if it ignores ``add_generation_prompt``, or ""."""
        try:
            without_prompt, prompt = (
                self._template.render(PROBE_EXCHANGE[:1], None, prompt=prompt) for prompt in (False, True)
            )
            finished = self._template.render(PROBE_EXCHANGE, None, prompt=False)
        except RenderError:
            return ""
        if without_prompt != prompt:
            return ""
        after_question, after_answer = prompt[prompt.rfind("Hi") + 2 :], finished[finished.rfind("Hello") + 5 :]
        starts = [match.start() for match in self._marker.find_control_tokens(after_answer, 0, len(after_answer))]
        return next((after_answer[at:] for at in starts[1:] if after_question.endswith(after_answer[at:])), "")

    @cached_property
    def _prompt_control_tokens(self) -> frozenset[str]:
        """The control tokens that a generation prompt adds to a text."""
        try:
            without_prompt, prompt = (
                self._template.render(PROBE_EXCHANGE[:1], None, prompt=prompt) for prompt in (False, True)
            )
        except RenderError:
            return frozenset()
        added = prompt[len(without_prompt) :] if prompt.startswith(without_prompt) else ""
        return frozenset(match.group() for match in self._marker.find_control_tokens(added, 0, len(added)))

    @cached_property
    def _lasting_stop_token(self) -> str | None:
        """The token after an answer that remains when the conversation continues; None if there is none.

        Phi-3 closes a finished text with a second token; a model that stops at the first one never writes the second.
        """
        try:
            finished, continued = (
                self._template.render(PROBE_EXCHANGE, None, prompt=prompt) for prompt in (False, True)
            )
        except RenderError:
            return None
        common = common_prefix_length(finished, continued)
        kept = [
            m.group()
            for m in self._marker.find_control_tokens(finished, finished.find("Hello"), len(finished))
            if m.end() <= common
        ]
        return kept[-1] if kept else None


def excerpt_at_difference(a: str, b: str) -> str:
    """Return the characters of the first text around the position where two texts begin to differ."""
    at = common_prefix_length(a, b)
    return a[max(0, at - 10) : at + 20]
