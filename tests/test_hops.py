"""Check the call path from the command to the loss, and to a row, against docs/architecture."""

import inspect
import re
from pathlib import Path

import pytest

import sft_cli
from sft_cli.cli import execute
from sft_cli.data.sources import text_files
from sft_cli.model.head import chunked_loss
from tests.docs_pages import PAGES

PACKAGE = Path(sft_cli.__file__).parent
TO_LOSS, TO_ROW = 7, 6
"""Most files."""


def listed(heading: str) -> list[str]:
    """Return the numbered files below a heading of the page."""
    section = re.search(rf"^## {heading}\n(.*?)^## ", PAGES["architecture"], flags=re.DOTALL | re.MULTILINE)
    assert section
    return re.findall(r"^\d+\. `([\w/.]+)`", section.group(1), flags=re.MULTILINE)


def passed(file: str) -> list[str]:
    """Return the package's files on the call stack, from the command on, and the called file."""
    files = [Path(frame.filename) for frame in reversed(inspect.stack(0))]
    names = [one.relative_to(PACKAGE).as_posix() for one in files if one.is_relative_to(PACKAGE)]
    names = [*names[names.index("cli/train.py") :], file]
    return [name for number, name in enumerate(names) if number == 0 or name != names[number - 1]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The paths to the loss of a step and to a row of a training run."""
    folder, found = tmp_path_factory.mktemp("hops"), {}
    objective, by_line = chunked_loss.loss_and_gradient, text_files._by_line

    def at_the_loss(*given, **named):
        path = passed("model/head/objective.py")
        if "train/step.py" in path:  # not the memory estimate, nor the check of packing
            found.setdefault("loss", path)
        return objective(*given, **named)

    def at_a_row(*given, **named):
        found.setdefault("row", passed("data/sources/text_files.py"))
        return by_line(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFT_HOME", str(folder))
        patch.setattr(chunked_loss, "loss_and_gradient", at_the_loss)
        patch.setattr(text_files, "_by_line", at_a_row)
        quick = ["trainer.max_steps=1", "eval.compare_after_training=false", "data.workers=1"]
        execute(["train", "recipe=quickstart", *quick, f"run_dir={folder / 'run'}"])
    return found


def test_the_path_to_the_loss_is_the_one_listed(recorded):
    assert recorded["loss"] == listed("From the command to the loss")
    assert len(recorded["loss"]) <= TO_LOSS


def test_the_path_to_a_row_is_the_one_listed(recorded):
    assert recorded["row"] == listed("From the command to a row")
    assert len(recorded["row"]) <= TO_ROW
