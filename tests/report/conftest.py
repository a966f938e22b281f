"""Prepared directories for the tests of the report."""

import shutil
from pathlib import Path

import pytest

from sft_cli.cli import execute
from sft_cli.report import gallery
from tests.report.helpers import add_to_manifest, make, manifest_parts


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """Return a prepared directory that tests must not change."""
    return make(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def full(prepared, tmp_path_factory) -> Path:
    """Return a copy with every part that a manifest can have, and a report that shows every row."""
    from sft_cli.report.page import write_report

    directory = tmp_path_factory.mktemp("full") / "prepared"
    shutil.copytree(prepared, directory)
    add_to_manifest(directory, manifest_parts(["mine", "plain", "talk"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gallery.KINDS, "random", 100)
        write_report(directory)
    return directory


@pytest.fixture
def inspect(prepared, capsys):
    """Return a function that runs the command and returns its output as lines."""

    def inspect(*arguments, plain=True):
        execute(["inspect", str(prepared), *arguments, *(["--plain"] if plain else [])])
        captured = capsys.readouterr()
        return (captured.out + captured.err).splitlines()

    return inspect
