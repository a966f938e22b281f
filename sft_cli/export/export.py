"""Export a run to a target."""

import shlex

from sft_cli.console import say
from sft_cli.export.adapter_target import export_adapter
from sft_cli.export.gguf_target import export_gguf
from sft_cli.export.hub_target import export_to_hub
from sft_cli.export.model_files import export_merged
from sft_cli.export.request import ExportRequest

WRITERS = {
    "merged": export_merged,
    "adapter": export_adapter,
    "gguf": export_gguf,
    "ollama": export_gguf,
    "hub": export_to_hub,
}


def export_run(request: ExportRequest) -> None:
    """Write the export; if that fails, write nothing.

    Raises:
        SftError: The run cannot be exported to the target.
    """
    WRITERS[request.target](request)
    if request.target == "hub":
        return
    run, out = shlex.quote(str(request.run.path)), shlex.quote(str(request.out))
    say(f"next      sft verify {out} --run {run}")
