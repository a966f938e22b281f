"""Compare suites with lm-evaluation-harness on the same items and model: figures, CPU time and memory.

    python scripts/bench/bench_eval.py RUN --items arc_easy.jsonl [--questions gsm8k_test.jsonl] [--limit 100]

lm_eval is not a dependency: install it into an environment of its own that also sees this package. Multiple choice: the
log-likelihoods of every choice, as lm-evaluation-harness splits context and choice, in chat format and as plain text;
the largest difference is printed. Generation: greedy answers to the same prompts. Both run in one process, one after
the other, on the model of the run; times are CPU seconds over all threads, which other processes affect little.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sft_cli.config.compose import read_config
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.suites import SuiteConfig, SuiteFormat, SuiteKind
from sft_cli.distributed.process_group import World
from sft_cli.eval.engine.choices import continuation_logprobs
from sft_cli.eval.engine.local import EngineModel
from sft_cli.eval.evaluated import evaluated_run
from sft_cli.eval.generate import GenerationSettings, answer_batches
from sft_cli.eval.session import load_evaluated, packed_loss_model
from sft_cli.eval.settings import eval_config
from sft_cli.eval.suite_session import engine_model
from sft_cli.model.attention.packing import use_default_attention
from sft_cli.model.device import ComputeSetup, choose_compute_setup
from sft_cli.model.load import load_model_config
from sft_cli.model.quant import causal_lm
from sft_cli.run_dir import RunDir
from sft_cli.suites.items import ANSWER_SEPARATOR, LoadedSuite, load_suite

BATCH = 8
"""Batch size of lm-evaluation-harness."""
NEW_TOKENS = 64
"""Longest answer."""


def main() -> None:
    """Print a table of both programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--items", required=True, help="rows with query, choices and gold")
    parser.add_argument("--questions", help="rows with question")
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    run = RunDir(Path(options.run))
    config = eval_config(run, read_config(run.config), ["trainer.device=cpu"], [])
    machine = choose_compute_setup(config.trainer, load_model_config(config.model), full=False)
    engine = _engine(run, config, machine)
    choices = SuiteConfig(kind=SuiteKind.choices, path=options.items, prompt="{{ query }}\nAnswer:",
                          choices="{{ choices }}", gold="{{ gold }}")  # fmt: skip
    suite = load_suite("choices", choices, limit=options.limit)
    ours = {}
    with machine.precision():
        for format in SuiteFormat:
            ours[format] = timed(lambda format=format: _our_choices(engine, suite, format))
        answers = timed(lambda: _our_answers(engine, _questions(options))) if options.questions else None
    use_default_attention(engine.model)
    lm = _their_model(engine)
    for format in SuiteFormat:
        theirs = timed(lambda format=format: _their_choices(lm, engine, suite, format))
        difference = max(abs(a - b) for a, b in zip(ours[format][0], theirs[0], strict=True))
        print(f"choices, {format.value}: {ours[format][1]:.2f} s here, {theirs[1]:.2f} s lm_eval,"
              f" {theirs[1] / ours[format][1]:.2f} x; largest difference {difference:.2e} nats")  # fmt: skip
    if answers is not None:
        theirs = timed(lambda: _their_answers(lm, engine, _questions(options)))
        same = sum(a.strip() == b.strip() for a, b in zip(answers[0], theirs[0], strict=True))
        print(f"answers: {answers[1]:.2f} s here, {theirs[1]:.2f} s lm_eval, {theirs[1] / answers[1]:.2f} x;"
              f" {same} of {len(theirs[0])} equal")  # fmt: skip


def timed(work: Callable[[], list[Any]]) -> tuple[list[Any], float]:
    """Return the result and the CPU seconds of some work, which runs twice: the first time fills caches."""
    work()
    started = time.process_time()
    return work(), time.process_time() - started


def _engine(run: RunDir, config: Config, machine: ComputeSetup) -> EngineModel:
    model = evaluated_run(run, config)
    weights = load_evaluated(model, config, machine)
    return engine_model(model, config, packed_loss_model(weights, "tuned", config, machine))


def _questions(options: argparse.Namespace) -> LoadedSuite:
    return load_suite("questions", SuiteConfig(path=options.questions, prompt="{{ question }}"), limit=options.limit)


def _our_choices(engine: EngineModel, suite: LoadedSuite, format: SuiteFormat) -> list[float]:
    pairs = [one for entry in suite.items for one in engine.prompts.lm_eval_continuations(entry, format)]
    return continuation_logprobs(engine.loss_model, pairs, engine.max_tokens)


def _our_answers(engine: EngineModel, suite: LoadedSuite) -> list[str]:
    prompts = [engine.prompts.prompt_ids(entry, SuiteFormat.chat) for entry in suite.items]
    share = engine.loss_model.shares_prefixes
    settings = GenerationSettings(engine.stop_ids, NEW_TOKENS, engine.batch_size, share_prefixes=share)
    texts: dict[int, str] = {}
    for batch, answers in answer_batches(engine.model, prompts, settings, pad_id=engine.stop_ids[0], world=World()):
        texts |= {index: engine.prompts.tokenizer.decode(list(answer.ids), skip_special_tokens=True)
                  for index, answer in zip(batch, answers, strict=True)}  # fmt: skip
    return [texts[index] for index in range(len(prompts))]


def _their_model(engine: EngineModel) -> Any:
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    model = causal_lm(engine.model)
    return HFLM(pretrained=model, tokenizer=engine.prompts.tokenizer, batch_size=BATCH, device="cpu")


def _instances(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    return [Instance(kind, {}, pair, 0) for pair in arguments]


def _their_choices(lm: Any, engine: EngineModel, suite: LoadedSuite, format: SuiteFormat) -> list[float]:
    separator = ANSWER_SEPARATOR if format is SuiteFormat.text else ""
    pairs = [(engine.prompts.prompt_text(entry, format), f"{separator}{choice}")
             for entry in suite.items for choice in entry.choices]  # fmt: skip
    return [value for value, _ in lm.loglikelihood(_instances("loglikelihood", pairs), disable_tqdm=True)]


def _their_answers(lm: Any, engine: EngineModel, suite: LoadedSuite) -> list[str]:
    stops = [engine.prompts.tokenizer.decode([id]) for id in engine.stop_ids]
    options = {"until": stops, "max_gen_toks": NEW_TOKENS, "do_sample": False}
    pairs = [(engine.prompts.prompt_text(entry, SuiteFormat.chat), dict(options)) for entry in suite.items]
    return lm.generate_until(_instances("generate_until", pairs), disable_tqdm=True)


if __name__ == "__main__":
    main()
