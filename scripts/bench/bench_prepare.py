"""Compare the speed of data preparation by sft_cli, TRL and plain `datasets` on the same rows.

    python scripts/bench/bench_prepare.py --data gsm_8k_train.json code_alpaca_2k.json
        --tokenizer qwen2_5 llama3=llama3.jinja [--rows 100000] [--turns 1 4] [--rounds 3] [--only ours trl]

The input are Alpaca rows, shuffled and repeated to --rows; with --turns 4, four rows form one conversation. A tokenizer
is a directory, optionally followed by `=` and a chat template that replaces its own: TRL masks answers only with
templates that it knows (those in trl/chat_templates). The tools alternate within each round; the table shows medians
over rounds. Loading the tokenizer is not timed. On a busy machine compare conversations per second of CPU time.

- ours: render, encode and prove every row, write Arrow; one process and two
- prepare: the whole of `sft prepare` from a JSONL file: reading, leakage filter, mix, ledger, manifest, report.html
- trl: SFTTrainer's dataset preparation with assistant_only_loss, and with prompt and completion
- datasets: Dataset.map of apply_chat_template(return_assistant_tokens_mask=True)

The Dataset for TRL and `datasets` is created before timing starts; `prepare` reads a file. On Qwen2.5 TRL counts one
token more per row and two trained tokens more per turn: its template trains the line break after `assistant`, which is
part of a server's prompt, and the one after `<|im_end|>`, where a server has already stopped.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread per process for all tools
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow
from peers import MAX_LENGTH, Result, Work, by_datasets, by_trl, counted, elapsed, read_clocks

from sft_cli.chat.template.loading import load_template
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.data import DataConfig
from sft_cli.data import prepared_writer
from sft_cli.prepare import encode_stage
from sft_cli.types import Conversation, Message
from sft_cli.utils import workers


class Part:
    """Encoder of a part of the rows in a worker process."""

    def __init__(self, rules: encode_stage.EncodeRules, directory: Path) -> None:
        self._maker, self._directory = rules.builder(), directory

    def write(self, task: tuple[int, list[list[dict[str, str]]]]) -> None:
        """Encode, prove and write rows."""
        number, rows = task
        conversations = [
            Conversation(tuple(Message(**message) for message in row), f"rows.jsonl:{number + i + 1}", "bench")
            for i, row in enumerate(rows)
        ]
        outcomes = self._maker.build(conversations)
        assert all(outcome.problem is None for outcome in outcomes)
        examples = [example for outcome in outcomes for example in outcome.examples]
        table = prepared_writer.example_table(examples)
        with pyarrow.ipc.new_file(str(self._directory / f"{number:08}.arrow"), table.schema) as writer:
            writer.write_table(table)


def ours(work: Work, processes: int) -> Result:
    """Encode every row with sft_cli: render, encode, prove and write as Arrow."""
    tokenizer = load_tokenizer(work.tokenizer)
    template = load_template(TemplateConfig(path=work.template), tokenizer)
    start = read_clocks()
    rules = encode_stage.EncodeRules(tokenizer, template, DataConfig(), MAX_LENGTH, replay=False, loss_weight=1.0)
    tasks = [(at, work.rows[at : at + encode_stage.CHUNK]) for at in range(0, len(work.rows), encode_stage.CHUNK)]
    for _ in workers.run(Part, (rules, work.scratch), Part.write, tasks, processes):
        pass
    spent = elapsed(start)
    files = [pyarrow.ipc.open_file(str(file)) for file in work.scratch.glob("*.arrow")]
    return Result(*spent, *counted(labels for file in files for labels in file.read_all()["labels"].to_pylist()))


def run_prepare(work: Work, processes: int) -> Result:
    """Run `sft prepare`; it is imported here, since worker processes import this file."""
    import datasets

    from sft_cli.config.compose import compose
    from sft_cli.prepare.prepare import prepare_data

    file = work.scratch / "rows.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in work.rows), encoding="utf-8")
    os.environ["SFT_HOME"] = str(work.scratch / "home")
    settings = [
        "data=local",
        f"data.mix.local.path={file}",
        f"model.tokenizer={work.tokenizer}",
        f"trainer.max_length={MAX_LENGTH}",
        f"data.workers={processes}",
        f"prepared_dir={work.scratch / 'prepared'}",
        *([f"template.path={work.template}"] if work.template else []),
    ]
    start = read_clocks()
    prepared = prepare_data(compose(settings))
    spent = elapsed(start)
    return Result(*spent, *counted(datasets.load_from_disk(str(prepared.directory))["train"]["labels"]))


CONTESTANTS: dict[str, Callable[[Work], Result]] = {
    "ours, 1 process": lambda work: ours(work, 1),
    "ours, 2 processes": lambda work: ours(work, 2),
    "prepare, 1 process": lambda work: run_prepare(work, 1),
    "prepare, 2 processes": lambda work: run_prepare(work, 2),
    "trl, assistant only": lambda work: by_trl(work, completion=False),
    "trl, completion only": lambda work: by_trl(work, completion=True),
    "datasets.map": by_datasets,
}
YARDSTICK = "trl, assistant only"


def read(files: list[str], num_rows: int, turns: int) -> list[list[dict[str, str]]]:
    """Return Alpaca rows as conversations of ``turns`` turns each."""
    found = [row for file in files for row in json.loads(Path(file).read_text(encoding="utf-8"))]
    random.Random(0).shuffle(found)
    endless: Iterator[dict[str, str]] = itertools.cycle(found)
    conversations = []
    for _ in range(num_rows):
        conversation = []
        for row in itertools.islice(endless, turns):
            asked = "\n\n".join(text for text in (row["instruction"], row.get("input")) if text)
            conversation += [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
        conversations.append(conversation)
    return conversations


def compare(rows: list[list[dict[str, str]]], tokenizer: str, rounds: int, only: list[str]) -> None:
    """Run the tools alternately and print the results."""
    directory, _, template = tokenizer.partition("=")
    names = [name for name in CONTESTANTS if not only or any(name.startswith(chosen) for chosen in only)]
    results: dict[str, list[Result]] = {name: [] for name in names}
    for _, name in itertools.product(range(rounds), names):
        with tempfile.TemporaryDirectory() as scratch:
            results[name].append(CONTESTANTS[name](Work(rows, directory, template or None, Path(scratch))))
    print(f"\n{Path(directory).name}, {len(rows)} conversations of {len(rows[0]) // 2} turns, median of {rounds}")
    print(f"{'':22}{'per second':>11}{'ratio':>7}{'per processor second':>22}{'ratio':>7}{'tokens':>11}{'trained':>10}")
    for name in names:
        line = f"{name:22}"
        for kind, width in (("seconds", 11), ("processor", 22)):
            speed = {one: statistics.median(len(rows) / getattr(r, kind) for r in results[one]) for one in names}
            ratio = f"{speed[name] / speed[YARDSTICK]:.2f}" if YARDSTICK in speed else ""
            line += f"{speed[name]:{width}.0f}{ratio:>7}"
        print(f"{line}{results[name][-1].tokens:11}{results[name][-1].trained:10}", flush=True)


def main() -> None:
    """Compare the tools for every tokenizer and number of turns."""
    import datasets
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="files of Alpaca rows")
    parser.add_argument("--tokenizer", nargs="+", required=True, help="DIRECTORY or DIRECTORY=TEMPLATE")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--turns", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], help="only tools whose names start with one of these")
    chosen = parser.parse_args()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    for tokenizer, turns in itertools.product(chosen.tokenizer, chosen.turns):
        compare(read(chosen.data, chosen.rows // turns, turns), tokenizer, chosen.rounds, chosen.only)


if __name__ == "__main__":
    main()
