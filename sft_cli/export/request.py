"""The settings of an export, and its checks that do not need torch."""

import re
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.console import gib, say
from sft_cli.errors import SftError
from sft_cli.merge.checks import check_mergeable, check_new
from sft_cli.run_dir import RunDir
from sft_cli.utils.disks import free_bytes

Target = Literal["merged", "adapter", "gguf", "ollama", "hub"]
TARGETS: tuple[Target, ...] = get_args(Target)
MODEL_DTYPES = ("float32", "bfloat16", "float16")
GGUF_DTYPES = ("f32", "f16", "bf16", "q8_0")
GGUF_TARGETS = ("gguf", "ollama")
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The settings of an export.

    Attributes:
        run: A finished run, or the directory of one of its saved steps.
        config: Its config.
        target: The form of the result.
        out: The new directory.
        dtype: Dtype of the weights as typed; None means the target's default.
        shard_size: Largest size of a safetensors file, such as ``5GB``.
        into: Base weights to merge into: ``original`` or ``dequantized``.
        portable: Whether an adapter's trained token rows are moved into a copy of the base.
        converter: llama.cpp's convert_hf_to_gguf.py for families that are not written here, or None.
        repo: Repository of the hub, such as ``USER/NAME``, or None.
        push: Whether to upload to it.
        public: Whether a repository that is created is public.
    """

    run: RunDir
    config: Config
    target: Target
    out: Path
    dtype: str | None = None
    shard_size: str = "5GB"
    into: str = "original"
    portable: bool = False
    converter: Path | None = None
    repo: str | None = None
    push: bool = False
    public: bool = False

    @property
    def command(self) -> str:
        """The start of the command line, for fixes."""
        return f"sft export {shlex.quote(str(self.run.path))} --to {self.target}"

    @property
    def merged_command(self) -> str:
        """The command that writes the merged model instead."""
        return f"sft export {shlex.quote(str(self.run.path))} --to merged"

    @property
    def is_whole(self) -> bool:
        """Whether the run trained the model's own weights, so that there is no adapter."""
        return self.config.adapter.kind in WHOLE


def check_request(request: ExportRequest) -> None:
    """Check the options against the target and the run, before any weight is read.

    Raises:
        SftError: An option has no effect or a wrong value, the run cannot be exported in this form, or ``out`` exists.
    """
    _check_options(request)
    if request.target == "hub":
        from sft_cli.export.hub_target import check_repo

        check_repo(request.repo, push=request.push)
        if request.out.is_dir():
            return
    if request.target == "adapter":
        _check_adapter(request)
    elif request.is_whole:
        _ = request.run.result
        check_new(request.out)
    else:
        check_mergeable(request.run, request.config, request.into, request.out)
    if request.target in GGUF_TARGETS and find_spec("gguf") is None:
        raise SftError(
            where=f"--to {request.target}",
            problem="writing GGUF needs the package gguf, which is not installed",
            fix="pip install 'sft-cli[gguf]'",
        )


def _check_options(request: ExportRequest) -> None:
    """Refuse values that are wrong for the target, and options that would have no effect."""
    names = GGUF_DTYPES if request.target in GGUF_TARGETS else MODEL_DTYPES
    if request.dtype is not None and request.target == "adapter":
        raise _no_effect("--dtype", "an adapter keeps the dtype it was trained in")
    if request.dtype is not None and request.dtype not in names:
        raise SftError(
            where=f"--dtype {request.dtype}",
            problem=f"--to {request.target} writes {', '.join(names)}",
            fix=f"{request.command} --dtype {names[1]}",
        )
    parse_size(request.shard_size)
    for option, value in (("--repo", request.repo), ("--push", request.push), ("--public", request.public)):
        if value and request.target != "hub":
            raise _no_effect(option, f"--to {request.target} uploads nothing")
    if request.public and not request.push:
        raise _no_effect("--public", "nothing is uploaded without --push")
    if request.portable and request.target != "adapter":
        raise _no_effect("--portable", f"--to {request.target} already contains every trained row")
    if request.converter is not None and request.target not in GGUF_TARGETS:
        raise _no_effect("--converter", f"--to {request.target} writes no GGUF file")
    if request.converter is not None and not request.converter.is_file():
        raise SftError(
            where=f"--converter {request.converter}",
            problem="there is no such file",
            fix="--converter PATH/convert_hf_to_gguf.py of a checkout of llama.cpp",
        )


def _no_effect(option: str, reason: str) -> SftError:
    return SftError(where=option, problem=f"it would have no effect: {reason}", fix=f"remove {option}")


def _check_adapter(request: ExportRequest) -> None:
    """Refuse runs without an adapter, and an existing directory."""
    if request.is_whole:
        raise SftError(
            where=str(request.run.path),
            problem="the run trained the model's own weights and has no adapter",
            fix=request.merged_command,
        )
    _ = request.run.result
    check_new(request.out)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``5GB`` or ``500MB``.

    Raises:
        SftError: It is no size, or none above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]B)", text.strip(), flags=re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise SftError(
            where=f"--shard-size {text}", problem="it is not a size such as 5GB or 500MB", fix="--shard-size 5GB"
        )
    return size


def require_space(what: str, needed: int, out: Path) -> None:
    """Print the size estimate and refuse a disk without that much space.

    Raises:
        SftError: The disk is too full.
    """
    free = free_bytes(out.parent)
    say(f"size      {what}: about {gib(needed)}; the disk has {gib(free)} free")
    if needed > free:
        raise SftError(
            where=f"--out {out}",
            problem=f"the export needs {gib(needed)}, the disk has {gib(free)} free",
            fix="--out DIR on another disk",
        )
