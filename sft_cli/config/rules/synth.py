"""Rules of making data."""

from collections.abc import Collection, Iterator

from sft_cli.config.files.search_path import package_dir
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.suites import EvalEngine
from sft_cli.config.schema.synth import Generator, SynthConfig
from sft_cli.config.validate import ConfigError
from sft_cli.utils.similar import closest_name

NO_SYSTEM = "none"
"""Name of no system message in ``synth.systems``."""
_OF = {
    "prompts": (Generator.respond, Generator.reject),
    "systems": (Generator.respond,),
    "samples": (Generator.reject,),
    "keep": (Generator.reject,),
    "check": (Generator.reject,),
    "self_instruct": (Generator.self_instruct,),
}
"""Part of the config -> the generators that read it."""


def check_synth_keys(config: Config) -> Iterator[ConfigError]:
    """Yield an error for each contradiction in ``synth``."""
    synth = config.synth
    endpoint = synth.teacher.endpoint
    if synth.max_cost is not None and not (endpoint.price_input or endpoint.price_output):
        key = "synth.teacher.endpoint"
        problem = f"synth.max_cost is set, but {key} has no prices"
        fix = f"set {key}.price_input=PRICE and {key}.price_output=PRICE, of a million tokens each"
        yield ConfigError("synth.max_cost", problem, fix)
    if synth.generator is Generator.reject and synth.samples > 1 and synth.teacher.temperature == 0:
        problem = f"synth.samples is {synth.samples}, but synth.teacher.temperature is 0: all would be equal"
        yield ConfigError(
            "synth.samples", problem, "set synth.teacher.temperature=0.8", clash="synth.teacher.temperature"
        )
    if synth.check.options and len(synth.check.scorers) != 1:
        problem = f"synth.check.options are set, but synth.check.scorers names {len(synth.check.scorers)} metrics"
        fix = "keep one of them in synth.check.scorers"
        yield ConfigError("synth.check.options", problem, fix, clash="synth.check.scorers")
    if not synth.check.scorers:
        fix = "set synth.check.scorers=[exact_match], or synth.generator=respond for answers that are not checked"
        yield ConfigError("synth.check.scorers", "synth.check.scorers is empty: no answer would be checked", fix)
    yield from _check_prompt_names(synth)


def _check_prompt_names(synth: SynthConfig) -> Iterator[ConfigError]:
    """Yield an error for each name of a prompt that does not exist."""
    known = sorted(file.stem for file in (package_dir("configs") / "synth/prompts").glob("*.jinja"))
    for key, names, others in (
        ("synth.systems", synth.systems, [*known, *synth.templates, NO_SYSTEM]),
        ("synth.templates", list(synth.templates), [*known, *synth.systems]),
    ):
        for name in names:
            if name not in others:
                near = closest_name(name, others)
                fix = f"did you mean {near}?" if near else f"write one of {', '.join(others)}"
                yield ConfigError(key, f"{key} names {name!r}, and there is no such prompt", fix)


def unused_synth_keys(config: Config, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Yield an error for each key on the command line that has no effect on the chosen generator."""
    synth = config.synth
    for key in explicit:
        part = key.removeprefix("synth.").partition(".")[0] if key.startswith("synth.") else ""
        if part in _OF and synth.generator not in _OF[part]:
            generators = " or ".join(f"synth.generator={generator.value}" for generator in _OF[part])
            problem = f"{key} would have no effect with synth.generator={synth.generator.value}"
            yield ConfigError(key, problem, f"set {generators}, or remove {key}", clash="synth.generator")
        served = synth.teacher.engine is EvalEngine.openai
        idle = ("synth.teacher.model", "synth.teacher.batch_size") if served else ("synth.teacher.endpoint",)
        if key.startswith(idle):
            other = "local" if served else "openai"
            problem = f"{key} would have no effect with synth.teacher.engine={synth.teacher.engine.value}"
            fix = f"set synth.teacher.engine={other}, or remove {key}"
            yield ConfigError(key, problem, fix, clash="synth.teacher.engine")
