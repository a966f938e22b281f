"""Names of commands and options in other tools and earlier versions, and their names here."""

from collections.abc import Mapping

COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("finetune", "fine-tune", "ft", "fit", "sft", "run", "start", "resume", "launch"), "train"),
    **dict.fromkeys(("preprocess", "tokenize", "process", "data", "prep", "dataset"), "prepare"),
    **dict.fromkeys(("evaluate", "test", "benchmark", "validate_model", "score"), "eval"),
    **dict.fromkeys(("diff", "versus", "vs", "significance"), "compare"),
    **dict.fromkeys(("merge-lora", "merge_lora", "merge-adapter", "save"), "merge"),
    **dict.fromkeys(("convert", "quantize", "gguf"), "export"),
    **dict.fromkeys(("validate", "dry-run", "dryrun", "lint", "estimate"), "check"),
    **dict.fromkeys(("recipe", "examples", "cp"), "recipes"),
    **dict.fromkeys(("ls", "list", "history", "ps", "jobs"), "runs"),
    **dict.fromkeys(("config", "configs", "keys", "print", "options"), "show"),
    **dict.fromkeys(("view", "debug", "look", "rows", "preview"), "inspect"),
    **dict.fromkeys(("info", "env", "system", "version-info", "diagnose"), "doctor"),
    **dict.fromkeys(("hpo", "grid", "search", "tune", "multirun"), "sweep"),
    **dict.fromkeys(("format", "schema", "shapes"), "formats"),
    **dict.fromkeys(("slurm", "sbatch"), "submit"),
    **dict.fromkeys(("api", "deploy", "endpoint", "server"), "serve"),
}
"""Commands of other tools -> commands here."""
_SERVED = (
    "sft chat RUN talks to a run's model; sft serve RUN answers requests; sft merge RUN --out merged writes a"
    " plain transformers model, which vllm serve merged, or any other program, serves"
)
NOT_HERE: Mapping[str, str] = {
    **dict.fromkeys(("generate", "infer", "inference", "predict", "ask", "complete"), _SERVED),
    **dict.fromkeys(
        ("push", "upload", "publish"),
        "sft export RUN --to hub --repo USER/NAME lists what would be uploaded; --push uploads it",
    ),
    **dict.fromkeys(("web", "webui", "ui", "board", "gradio"), "there is no web page to train from: sft --help"),
}
"""Commands of other tools without a counterpart -> what to do instead."""
FLAGS: Mapping[str, str] = dict.fromkeys(("--dry-run", "--dryrun", "--validate", "--debug"), "check")
"""Options of other tools -> the command that replaces them."""
SHORT: Mapping[str, str] = {
    **dict.fromkeys(("r", "c", "f"), "recipe"),
    "m": "model",
    "p": "prompt",
    "e": "trainer.epochs",
    "s": "step",
    "o": "out",
}
"""One-letter options of other tools -> names here."""
RENAMED: Mapping[tuple[str, str], str] = {
    ("train", "run"): "resume",
    ("sweep", "sweep"): "resume",
    ("sweep", "sweep_dir"): "out",
    **{
        (command, name): "out"
        for command in ("merge", "sweep")
        for name in ("output", "output_dir", "output-dir", "out_dir", "save_dir", "export_dir")
    },
    ("train", "out"): "run_dir",
    ("prepare", "out"): "prepared_dir",
    ("inspect", "run"): "dir",
    **{("inspect", name): "dir" for name in ("prepared", "prepared_dir", "directory", "data")},
    **{("inspect", name): "row" for name in ("index", "idx", "id")},
    **{("inspect", name): "text" for name in ("grep", "search", "regex", "contains")},
    **{("inspect", name): "n" for name in ("num", "count", "limit")},
    ("inspect", "kind"): "worst",
    ("inspect", "dataset"): "source",
    ("inspect", "side"): "split",
}
"""Command and former or foreign name -> option, argument or key of that command."""
