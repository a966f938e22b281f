"""Generator ``self_instruct``: new instructions from a pool, then an input and an output for each.

The steps and the prompts follow Self-Instruct (Wang et al. 2022, arXiv:2212.10560, section 2.2). All choices depend on
the seed and on earlier replies alone, so that a cut run repeats them from the journal.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sft_cli.config.schema.synth import SelfInstructConfig, SynthConfig
from sft_cli.synth.pool import InstructionPool
from sft_cli.synth.prompt_files import PromptFile, load_prompt
from sft_cli.synth.requests import Replies, TeacherReply, TeacherRequest
from sft_cli.synth.rows import Made, drop_reason, message_row, provenance
from sft_cli.synth.seed_tasks import SeedTask, load_seed_tasks
from sft_cli.synth.session import TeacherSession
from sft_cli.utils.hashing import blake2b_of_text

NEW_PER_REQUEST = 8
"""New instructions that a request asks for."""
SHOWN_CLASSIFICATION, SHOWN_OTHER = 4, 4
"""Seed tasks of each kind shown in a request that classifies an instruction."""
SHOWN_INSTANCES = 3
"""Seed tasks shown in a request for an input and an output."""
WORDS = range(3, 151)
"""Words of an instruction; others are dropped (the code of the paper)."""
LONGEST_LABEL = 8
"""Tokens of a reply that says Yes or No."""
UNUSABLE = re.compile(
    r"\b(?:images?|pictures?|photos?|graphs?|plots?|draw|videos?|audio|music|files?|flowcharts?)\b", re.I
)
"""Words of instructions that a model of text cannot follow (the code of the paper)."""
_NUMBERED = re.compile(r"^\s*\d+\s*[.):]\s*(.+?)\s*$", re.MULTILINE)
_PARTS = re.compile(r"^\s*(input|output)\s*:[ \t]*", re.IGNORECASE | re.MULTILINE)
NO_INPUT = ("none", "n/a", "<noinput>", "no input", "")
"""Replies for a task without an input."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A new instruction.

    Attributes:
        text: The instruction.
        parents: Ids of the instructions that were shown.
        reply: The reply that contains it.
    """

    text: str
    parents: tuple[str, ...]
    reply: TeacherReply

    @property
    def id(self) -> str:
        """Its id: a digest of the text."""
        return blake2b_of_text(self.text)[:12]


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of the steps."""

    new: PromptFile
    classify: PromptFile
    input_first: PromptFile
    output_first: PromptFile


def self_instruct(config: SynthConfig, session: TeacherSession, limit: int | None = None) -> Made:
    """Return rows of new instructions with answers, until there are enough or a limit is reached.

    Args:
        config: The settings.
        session: The teacher.
        limit: Number of rows of a preview; None for ``synth.self_instruct.rows``.
    """
    own, names = config.self_instruct, ("new_instructions", "classification", "input_first", "output_first")
    prompts = Prompts(*(load_prompt(name, config.templates) for name in names))
    seeds = load_seed_tasks(own.seeds)
    made = Made(prompts=[prompts.new, prompts.classify, prompts.input_first, prompts.output_first])
    pool = InstructionPool(own.similarity)
    for seed in seeds:
        pool.add(seed.instruction)
    wanted, machine = min(own.rows, limit or own.rows), list[Candidate]()
    number = 0
    while len(made.rows) < wanted and number < own.max_rounds and not session.stopped:
        found = _new_instructions(config, session, prompts.new, seeds, machine, number)
        fresh = [one for one in found if _enters(one, pool, made)]
        machine += fresh
        _add_instances(config, session, prompts, seeds, fresh, made)
        number += 1
    made.counts["more than wanted"] += max(0, len(made.rows) - wanted)
    made.counts["kept"] = min(len(made.rows), wanted)
    made.counts = +made.counts
    made.figures = {"rounds": number, "pool": len(pool.texts)}
    made.rows = made.rows[:wanted]
    made.planned = -(-session.requests * own.rows // len(made.rows)) if made.rows else None
    return made


def _new_instructions(
    config: SynthConfig,
    session: TeacherSession,
    prompt: PromptFile,
    seeds: Sequence[SeedTask],
    machine: Sequence[Candidate],
    round_number: int,
) -> list[Candidate]:
    """Ask for new instructions; return those of all replies of a round, in order.

    Args:
        config: The settings.
        session: The teacher.
        prompt: The prompt.
        seeds: The seed tasks.
        machine: The instructions of earlier rounds.
        round_number: Number of the round.
    """
    own = config.self_instruct
    requests, parents = list[TeacherRequest](), list[tuple[str, ...]]()
    for number in range(own.requests_per_round):
        place = f"round {round_number} request {number}"
        shown = _shown(own, seeds, machine, Random(f"{config.teacher.seed} {place}"))
        text = prompt.render(examples=[example for _, example in shown], count=NEW_PER_REQUEST)
        requests.append(TeacherRequest(place, ({"role": "user", "content": text},)))
        parents.append(tuple(id for id, _ in shown))
    replies = session.ask(requests, session.drawing(), f"round {round_number + 1} instructions")
    return [
        Candidate(text, shown, reply)
        for shown, reply in zip(parents, replies, strict=True)
        if reply is not None
        for text in listed_instructions(reply.text, cut=not reply.stopped)
    ]


def _shown(
    own: SelfInstructConfig, seeds: Sequence[SeedTask], machine: Sequence[Candidate], random: Random
) -> list[tuple[str, str]]:
    """Return the ids and the texts of the instructions that a request shows."""
    generated = random.sample(list(machine), min(own.machine_examples, len(machine)))
    number = own.human_examples + own.machine_examples - len(generated)
    human = random.sample(list(seeds), min(number, len(seeds)))
    shown = [*((one.id, one.instruction) for one in human), *((one.id, one.text) for one in generated)]
    random.shuffle(shown)
    return shown


def listed_instructions(text: str, *, cut: bool) -> list[str]:
    """Return the items of a numbered list; the last one of a reply that was cut is incomplete."""
    items = _NUMBERED.findall(text)
    return items[:-1] if cut else items


def _enters(candidate: Candidate, pool: InstructionPool, made: Made) -> bool:
    """Return whether an instruction enters the pool, and add it; count why others do not."""
    words = len(candidate.text.split())
    if words not in WORDS:
        made.counts["instruction: too short or too long"] += 1
    elif UNUSABLE.search(candidate.text):
        made.counts["instruction: not for text alone"] += 1
    elif pool.similar(candidate.text) is not None:
        made.counts["instruction: similar to another"] += 1
    else:
        pool.add(candidate.text)
        return True
    return False


def _add_instances(
    config: SynthConfig,
    session: TeacherSession,
    prompts: Prompts,
    seeds: Sequence[SeedTask],
    fresh: Sequence[Candidate],
    made: Made,
) -> None:
    """Ask for an input and an output for each new instruction, and add the rows.

    Args:
        config: The settings.
        session: The teacher.
        prompts: The prompts.
        seeds: The seed tasks, which are shown as examples.
        fresh: The instructions.
        made: Receives the rows and counts.
    """
    if not fresh:
        return
    labels = _classify(config, session, prompts.classify, seeds, fresh)
    known = [(one, label) for one, label in zip(fresh, labels, strict=True) if label is not None]
    made.counts["not asked"] += len(fresh) - len(known)
    used = [prompts.output_first if _says_yes(label) else prompts.input_first for _, label in known]
    requests = [
        _instance_request(config, prompt, one, _says_yes(label), seeds)
        for (one, label), prompt in zip(known, used, strict=True)
    ]
    replies = session.ask(requests, session.drawing(), "inputs and outputs")
    for (one, label), prompt, reply in zip(known, used, replies, strict=True):
        instance = None if reply is None else read_instance(reply.text)
        if reply is None:
            made.counts["not asked"] += 1
        elif reason := drop_reason(reply, config):
            made.counts[reason] += 1
        elif instance is None:
            made.counts["no output in the reply"] += 1
        elif instance[0] == instance[1]:
            made.counts["output equal to the input"] += 1
        else:
            content = f"{one.text}\n\n{instance[0]}" if instance[0] else one.text
            chain = [prompts.new, prompts.classify, prompt]
            source = provenance(session, "self_instruct", chain, one.parents, [one.reply, label, reply])
            made.rows.append(message_row([{"role": "user", "content": content}], instance[1], reply.reasoning, source))


def _classify(
    config: SynthConfig,
    session: TeacherSession,
    prompt: PromptFile,
    seeds: Sequence[SeedTask],
    fresh: Sequence[Candidate],
) -> Replies:
    """Ask whether each instruction is a classification task, without sampling."""
    random = Random(f"{config.teacher.seed} classification")
    kinds = [[one for one in seeds if one.is_classification is kind] for kind in (True, False)]
    shown = [
        example
        for kind, number in zip(kinds, (SHOWN_CLASSIFICATION, SHOWN_OTHER), strict=True)
        for example in random.sample(kind, min(number, len(kind)))
    ]
    random.shuffle(shown)
    examples = [example.values() for example in shown]
    requests = [
        TeacherRequest(
            f"classify {one.id}",
            ({"role": "user", "content": prompt.render(examples=examples, instruction=one.text)},),
        )
        for one in fresh
    ]
    return session.ask(requests, session.drawing(LONGEST_LABEL, temperature=0.0), "kinds of tasks")


def _says_yes(reply: TeacherReply) -> bool:
    return reply.text.strip().lower().startswith("yes")


def _instance_request(
    config: SynthConfig, prompt: PromptFile, one: Candidate, is_classification: bool, seeds: Sequence[SeedTask]
) -> TeacherRequest:
    """Return the request for an input and an output.

    Args:
        config: The settings.
        prompt: The prompt, output first for classification tasks.
        one: The instruction.
        is_classification: Whether it is such a task.
        seeds: The seed tasks.
    """
    alike = [seed for seed in seeds if seed.is_classification is is_classification] or list(seeds)
    random = Random(f"{config.teacher.seed} instance {one.id}")
    examples: list[dict[str, Any]] = [seed.values() for seed in random.sample(alike, min(SHOWN_INSTANCES, len(alike)))]
    text = prompt.render(examples=examples, instruction=one.text)
    return TeacherRequest(f"instance {one.id}", ({"role": "user", "content": text},))


def read_instance(text: str) -> tuple[str, str] | None:
    """Return the input, empty if the task has none, and the output of a reply; None without an output."""
    parts = _PARTS.split(text)
    found = {name.lower(): value.strip() for name, value in reversed(list(zip(parts[1::2], parts[2::2], strict=True)))}
    output = found.get("output", "")
    given = found.get("input", "")
    return ("" if given.strip("\"'. ").lower() in NO_INPUT else given, output) if output else None
