"""``sft judge``: let a language model judge the answers of a suite."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sft_cli.cli.options import Run

WITHHELD = 3
"""Exit code if the audit withholds the scores."""

Suite = Annotated[str, typer.Option("--suite", metavar="NAME", help="Suite whose answers are judged.")]
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="Name of the judge at its endpoint.")]
Url = Annotated[
    str,
    typer.Option(
        "--url",
        metavar="URL",
        help="OpenAI-compatible endpoint, such as http://localhost:8000/v1; without it OpenAI's, with the key in"
        " OPENAI_API_KEY.",
        show_default=False,
    ),
]
Against = Annotated[
    str | None,
    typer.Option("--against", metavar="base|RUN", help="Compare with these answers; without it, rate answers."),
]
RubricFile = Annotated[
    Path | None, typer.Option("--rubric", metavar="FILE", help="Text file that says what a good answer is.")
]
LabelsFile = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help='Labels of people, lines such as {"id": "7", "label": "win"}.'),
]
ReferencesFile = Annotated[
    Path | None,
    typer.Option("--references", metavar="FILE", help="Rate also by MT-Bench's separate file of references."),
]
Concurrency = Annotated[int, typer.Option("--concurrency", metavar="N", min=1, help="Requests at once.")]
RequestsPerMinute = Annotated[
    int, typer.Option("--requests-per-minute", metavar="N", min=0, help="Most requests a minute; 0: no limit.")
]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Time until a request counts as failed.")
]
JsonFormat = Annotated[
    Literal["json_schema", "json_object", "none"],
    typer.Option("--response-format", help="How the endpoint is asked for JSON; none if it knows no such field."),
]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", metavar="N", min=0, help="Stop at so many tokens in all; 0: no limit.")
]
PriceInput = Annotated[
    float, typer.Option("--price-input", metavar="PRICE", min=0, help="Price of a million tokens of requests.")
]
PriceOutput = Annotated[
    float, typer.Option("--price-output", metavar="PRICE", min=0, help="Price of a million tokens of replies.")
]
MaxCost = Annotated[float, typer.Option("--max-cost", metavar="COST", min=0, help="Stop at this cost; 0: no limit.")]


def judge(
    run: Run,
    suite: Suite,
    model: Model,
    url: Url = "",
    against: Against = None,
    rubric: RubricFile = None,
    labels: LabelsFile = None,
    references: ReferencesFile = None,
    concurrency: Concurrency = 4,
    requests_per_minute: RequestsPerMinute = 0,
    timeout: Timeout = 60.0,
    response_format: JsonFormat = "json_schema",
    max_tokens: MaxTokens = 0,
    price_input: PriceInput = 0.0,
    price_output: PriceOutput = 0.0,
    max_cost: MaxCost = 0.0,
) -> None:
    """Judge the answers of a suite by a language model, and audit the judge.

    Each pair is judged in both orders. Scores are withheld, with exit code 3, if the judge prefers long or empty
    answers, depends on the order, or disagrees with labels. The same command continues a run that was cut.

    Example: sft judge runs/a --suite xstest --model qwen --url http://localhost:8000/v1 --against base
    """
    from sft_cli.compare.judging import BASE_LABEL, find_answers, judge_answers
    from sft_cli.compare.show_judge import show_judgement
    from sft_cli.progress import status
    from sft_cli.run_dir import open_result_dir
    from sft_cli.scoring.judge.settings import JudgeSettings

    directory = open_result_dir(run, "sft judge")
    record, baseline = find_answers(directory, suite), None
    if against is not None:
        is_base = against == BASE_LABEL
        other = directory if is_base else open_result_dir(against, "sft judge --against")
        baseline = find_answers(other, suite, base=is_base)
    settings = JudgeSettings(
        model=model,
        base_url=url,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        timeout=timeout,
        response_format=response_format,
        max_total_tokens=max_tokens,
        price_input=price_input,
        price_output=price_output,
        max_cost=max_cost,
    )
    result, written = judge_answers(
        record, baseline, settings, rubric=rubric, labels=labels, references=references, report=status
    )
    show_judgement(result, written)
    raise typer.Exit(WITHHELD if result.withheld else 0)
