"""The documentation: one Markdown page per topic, shipped with the package and printed by ``sft docs TOPIC``."""

from importlib.resources import files

from sft_cli.errors import SftError
from sft_cli.utils.similar import closest_name

TOPICS = {
    "data": "sources, formats, mixing, filters, held-out rows, the stage cache",
    "templates-and-masks": "chat templates, which tokens carry loss, reasoning, tool results",
    "adapters": "LoRA and its variants, full fine-tuning, quantized weights, new tokens",
    "losses": "the terms of the loss, replay, KL, probes against forgetting",
    "optimizers": "optimizers, learning-rate schedules, averaged weights, automatic values",
    "performance": "the exact optimizations, precision, measured throughput",
    "memory": "the memory estimate and the settings that lower it",
    "multi-gpu": "several processes: DDP and FSDP",
    "slurm": "job scripts, time limits, preemption, containers",
    "evaluation": "suites, your own questions, multiple choice, results, limits, scoring again",
    "synth": "rows made with a teacher: answers, rejection sampling, self-instruct",
    "import": "recipes from configs of axolotl, LLaMA-Factory and TRL",
    "sweeps": "several values at once, ranked in one table",
    "comparing": "runs compared on suites: intervals, verdicts, judges and their audit",
    "checks": "what `sft check` and `sft doctor` test before a run",
    "export": "merged models, adapters, GGUF, Ollama; checks before a model is served",
    "chat": "talk to a run or a model: commands, token ids, saved rows, the base for comparison",
    "board": "runs in a browser: curves, data, evaluations, and all of it as JSON",
    "recovery": "what happens when a run is killed, a disk fills up or a loss is not finite",
    "security": "threats, defences and the tests that try them",
    "run-directory": "every file of a run and its units",
    "configuration": "every configuration key: type, limits, default, meaning",
    "architecture": "the types passed between packages, the packages, imports, the path from command to loss, code map",
    "contributing": "house rules, tests, how to add a key, a filter or a format",
    "glossary": "the terms used in these pages",
}
"""Name of each page -> its content."""
MIN_PART = 3
"""Letters of a part of a name that find the page."""


def page(topic: str) -> str:
    """Return the Markdown of a topic.

    Raises:
        SftError: There is no such topic.
    """
    name = topic.lower().removesuffix(".md").replace("_", "-")
    if name not in TOPICS:
        containing = [topic for topic in TOPICS if len(name) >= MIN_PART and name in topic]
        meant = [similar] if (similar := closest_name(name, TOPICS)) else containing
        fix = f"did you mean {' or '.join(f'sft docs {topic}' for topic in meant)}? " if meant else ""
        raise SftError(
            where=f"sft docs {topic}", problem="there is no such topic", fix=f"{fix}`sft docs` lists the topics"
        )
    return files("sft_cli.docs").joinpath(f"{name}.md").read_text(encoding="utf-8")


def contents() -> str:
    """Return the table of topics as Markdown."""
    rows = "".join(f"| {name} | {what} |\n" for name, what in TOPICS.items())
    return f"| topic | what it covers |\n|---|---|\n{rows}\n`sft docs TOPIC` prints one page.\n"
