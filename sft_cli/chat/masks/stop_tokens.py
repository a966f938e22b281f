"""Where an answer ends: the stop token that the model must learn to write."""

from functools import cached_property

from sft_cli.chat.masks.sentinels import Marker
from sft_cli.chat.template.chat_template import ChatTemplate, TemplateRefusal
from sft_cli.utils.text import common_prefix_length

PROBE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


class Stops:
    """The stop tokens that one template writes."""

    def __init__(self, template: ChatTemplate, marker: Marker) -> None:
        self._template, self._marker = template, marker

    def find(self, text: str, start: int) -> tuple[str, int]:
        """The stop token of the turn that begins at ``start`` and ends the text, and where it ends.

        Raises:
            TemplateRefusal: There is none.
        """
        end, endings = len(text.rstrip()), []
        if self.tail and text.endswith(self.tail):
            end = len(text[: -len(self.tail)].rstrip())
        for match in reversed(list(self._marker.specials(text, start, end))):
            if text[match.end() : end].strip():
                break
            endings.append(match)
            end = match.start()
        if not endings:
            tail = text[max(start, end - 20) : end]
            raise TemplateRefusal(
                f"the answer ends in {tail!r}, not in a special token of the tokenizer:"
                " the model would never learn to stop"
            )
        stop = endings[0]
        if len(endings) > 1:
            stop = next((match for match in reversed(endings) if match.group() == self._lasting), stop)
        if stop.group() in self._header:
            raise TemplateRefusal(
                f"the answer ends in {stop.group()!r}, which also begins every answer:"
                " the model would never learn to stop"
            )
        return stop.group(), stop.end()

    @cached_property
    def tail(self) -> str:
        """What a template that ignores ``add_generation_prompt`` writes after every text: the header of an answer."""
        try:
            bare, prompt = (self._template.render(PROBE[:1], None, prompt=prompt) for prompt in (False, True))
            done = self._template.render(PROBE, None, prompt=False)
        except TemplateRefusal:
            return ""
        if bare != prompt:
            return ""
        asked, said = prompt[prompt.rfind("Hi") + 2 :], done[done.rfind("Hello") + 5 :]
        begins = [match.start() for match in self._marker.specials(said, 0, len(said))]
        return next((said[at:] for at in begins[1:] if asked.endswith(said[at:])), "")

    @cached_property
    def _header(self) -> frozenset[str]:
        """The control tokens of what a generation prompt adds to a text."""
        try:
            bare, prompt = (self._template.render(PROBE[:1], None, prompt=prompt) for prompt in (False, True))
        except TemplateRefusal:
            return frozenset()
        added = prompt[len(bare) :] if prompt.startswith(bare) else ""
        return frozenset(match.group() for match in self._marker.specials(added, 0, len(added)))

    @cached_property
    def _lasting(self) -> str | None:
        """The token behind a plain answer that is still there when the conversation goes on; None if there is none.

        Phi-3 closes a finished text with a second token; a model that stops at the first never comes to write it.
        """
        try:
            done, going_on = (self._template.render(PROBE, None, prompt=prompt) for prompt in (False, True))
        except TemplateRefusal:
            return None
        common = common_prefix_length(done, going_on)
        behind = [m.group() for m in self._marker.specials(done, done.find("Hello"), len(done)) if m.end() <= common]
        return behind[-1] if behind else None


def parting(a: str, b: str) -> str:
    """Where two texts part: the first one's characters around it."""
    at = common_prefix_length(a, b)
    return a[max(0, at - 10) : at + 20]
