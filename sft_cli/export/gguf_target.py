"""``--to gguf`` and ``--to ollama``: the merged model as one GGUF file, checked by llama.cpp."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from sft_cli.console import counted, gib, say
from sft_cli.errors import SftError
from sft_cli.export import llama_cpp
from sft_cli.export.gguf_family import FAMILIES
from sft_cli.export.gguf_file import stop_ids, write_gguf
from sft_cli.export.gguf_settings import wrong_settings
from sft_cli.export.model_files import TORCH_DTYPES, build_model, model_dtype
from sft_cli.export.modelfile import write_modelfile
from sft_cli.export.record import write_record
from sft_cli.export.references import prompt_ids, run_cases, stress_cases
from sft_cli.export.request import ExportRequest, require_space
from sft_cli.export.staging import new_directory
from sft_cli.merge.card import run_title
from sft_cli.merge.plan import count_weights
from sft_cli.model.load import load_model_config

BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
"""Bytes per weight."""
MAX_ANSWERS = 16


def export_gguf(request: ExportRequest) -> None:
    """Write a GGUF file (and for Ollama a Modelfile) to ``request.out``, and check it with llama.cpp.

    Raises:
        SftError: llama.cpp cannot compute the model, or computes something else.
    """
    dtype = request.dtype or "f16"
    merged_dtype = model_dtype(request)
    weights = count_weights(request.config.model)
    size = int(weights * BYTES[dtype])
    temporary = weights * TORCH_DTYPES[merged_dtype].itemsize
    require_space(
        f"{gib(size)} in {dtype} and {gib(temporary)} for merging, removed at the end", size + temporary, request.out
    )
    with new_directory(request.out) as directory, TemporaryDirectory(dir=request.out.parent) as folder:
        model = Path(folder) / "model"
        model.mkdir()
        build_model(request, model, merged_dtype)
        file = directory / f"{slug(run_title(request.run, request.config))}-{dtype}.gguf"
        _write(request, model, file, dtype)
        checked = compare_gguf(request, file, model, dtype)
        shutil.copyfile(model / "README.md", directory / "README.md") if (model / "README.md").is_file() else None
        if request.target == "ollama":
            write_modelfile(directory, file.name, model)
        write_record(directory, request.run, request.config, request.target, dtype, checked=checked)
    say(f"exported  {request.out / file.name} ({gib((request.out / file.name).stat().st_size)} in {dtype})")
    if request.target == "ollama":
        say(f"next      ollama create {file.stem.lower()} -f {shlex.quote(str(request.out / 'Modelfile'))}")


def slug(name: str) -> str:
    """Return a name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def _write(request: ExportRequest, model: Path, file: Path, dtype: str) -> None:
    """Write the file here, or with llama.cpp's converter where the family is not written here."""
    kind = load_model_config(request.config.model).model_type
    if request.converter is None or kind in FAMILIES:
        fix = f"--converter PATH/convert_hf_to_gguf.py of llama.cpp\n{request.merged_command}"
        write_gguf(model, file, dtype, fix)
        return
    words = [sys.executable, str(request.converter), str(model), "--outfile", str(file), "--outtype", dtype]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode or not file.is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise SftError(
            where=f"--converter {request.converter}",
            problem=f"it failed with exit code {done.returncode}: {last}",
            fix="--converter PATH/convert_hf_to_gguf.py of a llama.cpp that knows this model\n--to merged",
        )


def compare_gguf(request: ExportRequest, file: Path, model: Path, dtype: str) -> dict[str, object]:
    """Compare the file with the trained tokenizer and the merged model; return the counts.

    Raises:
        SftError: A number is not that of config.json, texts have other ids, an answer does not end, or answers differ
            by more than rounding.
    """
    _check_settings(request, file, model)
    if not llama_cpp.is_installed():
        say("verified  nothing more: llama-cpp-python is not installed (pip install 'sft-cli[llama-cpp]')")
        return {}
    cases = run_cases(request.run)
    opened = llama_cpp.GgufVocabulary(file)
    wrong, stress = opened.wrong_ids(cases), opened.wrong_ids(stress_cases(model))
    endless = [id for id in stop_ids(model) if not opened.is_end(id)]
    opened.close()
    merged = request.merged_command
    if wrong:
        raise _refused(f"llama.cpp encodes {len(wrong)} of {len(cases)} texts to other ids: {wrong[0]}", merged)
    if endless:
        raise _refused(f"llama.cpp does not stop at the ids {endless}", merged)
    say(f"verified  ids of {len(cases)} texts are equal in llama.cpp")
    for difference in stress:
        say(f"warning   another text has other ids in llama.cpp: {difference}")
    report = _check_answers(request, file, model, dtype, merged)
    return {"texts": len(cases), "answers": report.total, "equal_answers": report.equal, "other_texts": stress}


def _check_settings(request: ExportRequest, file: Path, model: Path) -> None:
    """Refuse a file with other numbers than config.json, such as a wrong cap of the logits."""
    from transformers import AutoConfig

    if wrong := wrong_settings(file, AutoConfig.from_pretrained(model)):
        raise _refused(f"the file is not the model: {'; '.join(wrong)}", request.merged_command)
    say("verified  sizes and constants are those of config.json")


def _check_answers(request: ExportRequest, file: Path, model: Path, dtype: str, merged: str) -> llama_cpp.AnswerReport:
    """Compare greedy answers."""
    from transformers import AutoModelForCausalLM

    prompts = prompt_ids(request.run, MAX_ANSWERS)
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    report = llama_cpp.summarize(llama_cpp.compare_answers(file, plain, prompts, stop_ids(model)), dtype)
    if report.equal + report.rounding < report.total:
        differing = report.total - report.equal - report.rounding
        raise _refused(
            f"{differing} of {report.total} greedy answers differ from transformers by up to"
            f" {report.worst_gap:.2g} nats, more than the rounding of {dtype}",
            f"--dtype f16\n{merged}" if dtype == "q8_0" else merged,
        )
    text = f"verified  {report.equal} of {counted(report.total, 'greedy answer')} equal those of transformers"
    say(
        text + (f", {report.rounding} by rounding not (at most {report.worst_gap:.2g} nats)" if report.rounding else "")
    )
    return report


def _refused(problem: str, fix: str) -> SftError:
    return SftError(where="--to gguf", problem=f"{problem}; nothing was written", fix=fix)
