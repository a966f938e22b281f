"""Check the pages of ``sft docs``: complete, consistent with the code, printable offline, with valid commands.

To accept a change of the keys in configuration.md: python -m tests.test_docs
"""

import io
import re
import subprocess
import sys

import pytest
import yaml

from sft_cli.cli.docs import docs
from sft_cli.config.compose import compose
from sft_cli.config.keys.valid_keys import KEYS, find_key
from sft_cli.data.formats.registry import FORMATS
from sft_cli.docs import TOPICS, page
from sft_cli.docs.configuration import configuration_page
from sft_cli.errors import SftError
from tests.docs_pages import DOCS, PAGES, README, ROOT, blocks
from tests.test_architecture import LAYERS

GOLDEN = DOCS / "configuration.md"
HOW = "The keys of the config have changed. If that is meant: python -m tests.test_docs, and look at the diff."
CLEAN_STEPS = [name.split(".")[1] for name in KEYS if name.startswith("clean.") and name.count(".") == 2]


class Terminal(io.StringIO):
    """Standard output that reports to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_configuration_is_generated_from_the_schema():
    assert configuration_page() == GOLDEN.read_text(encoding="utf-8"), HOW


def test_configuration_names_every_key():
    assert [name for name in KEYS if f"**`{name}`**" not in PAGES["configuration"]] == []
    assert len(KEYS) > 200


def test_topics_are_the_files():
    assert set(TOPICS) == {file.stem for file in DOCS.glob("*.md") if file.stem != "README"}


def test_the_readme_is_short():
    assert README.count("\n") <= 150


def test_the_picture_is_small_and_stays_out_of_the_wheel():
    assert (DOCS / "report.png").stat().st_size < 150_000
    assert '"sft_cli.docs" = ["*.md"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_links_lead_to_files():
    links = [(name, link) for name, text in PAGES.items() for link in re.findall(r"\]\(([^)#]+)\)", text)]
    assert [
        (name, link)
        for name, link in links
        if not link.startswith("http") and not ((ROOT if name == "README" else DOCS) / link).exists()
    ] == []
    assert len(links) > 20


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_is_laid_out_on_a_terminal_and_plain_in_a_pipe(topic, monkeypatch, capsys):
    docs(topic)
    assert capsys.readouterr().out == page(topic)

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    docs(topic)
    assert "\x1b[" in terminal.getvalue()
    assert "```" not in terminal.getvalue()


def test_without_a_topic_all_are_listed(capsys):
    docs(None)
    assert re.findall(r"^\| ([a-z-]+) \|", capsys.readouterr().out, flags=re.MULTILINE)[1:] == list(TOPICS)


def test_wrong_topic_suggests_the_nearest():
    with pytest.raises(SftError, match="did you mean sft docs adapters"):
        page("adaptors")
    with pytest.raises(SftError, match="did you mean sft docs templates-and-masks"):
        page("masks")
    with pytest.raises(SftError, match="`sft docs` lists the topics"):
        page("cooking")


def test_a_page_is_printed_without_torch():
    code = "import sys; from sft_cli.cli.docs import docs; docs('data'); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Data\n")


def yaml_of(page_name, number, folder, more=()):
    """Compose a YAML block of a page as a recipe; the config."""
    text = blocks(PAGES[page_name], "yaml")[number]
    file = folder / "mine.yaml"
    file.write_text(text if text.startswith("# @package") else f"# @package _global_\n{text}", encoding="utf-8")
    return compose([f"recipe={file}", *more])


def test_the_recipe_of_the_readme_composes(tmp_path):
    config = yaml_of("README", 0, tmp_path)
    assert (config.data.overflow.value, config.quant.kind.value) == ("drop_oldest_turns", "nf4")


def test_the_data_example_composes(tmp_path):
    config = yaml_of("data", 0, tmp_path)
    assert config.data.strategy.value == "trained_tokens"
    assert list(config.data.mix) == ["code", "tickets", "forum", "books", "wiki"]


def test_the_example_of_held_out_groups_composes(tmp_path):
    assert yaml_of("data", 1, tmp_path).data.holdout == {"task": ["translate", "rhyme"]}


def test_the_probes_example_composes(tmp_path):
    sources = ["data.mix.rows.path=rows.jsonl", "data.mix.text.path=text.txt", "data.mix.text.role=replay"]
    config = yaml_of("losses", 0, tmp_path, sources)
    assert config.trainer.retention.probes["facts"].metric.value == "exact_match"


def test_the_suite_example_composes(tmp_path):
    suite = yaml_of("evaluation", 0, tmp_path).eval.suites["capitals"]
    assert (suite.scorers, suite.target) == (["exact_match"], "{{ city }}")


def test_every_shipped_suite_has_its_row():
    options = {file.stem for file in (ROOT / "configs" / "eval").glob("*.yaml")}
    assert [name for name in sorted(options) if f"`{name}`" not in PAGES["evaluation"]] == []


def test_every_yaml_block_has_a_test():
    assert {name: len(found) for name, text in PAGES.items() if (found := blocks(text, "yaml"))} == {
        "README": 1,
        "data": 2,
        "losses": 1,
        "evaluation": 1,
    }


PACKAGE = ROOT / "sft_cli"
FOLDERS = [file.parent for file in sorted(PACKAGE.rglob("__init__.py"))]
READMES = {file.parent: file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("README.md"))}
"""The READMEs of packages."""


def test_the_architecture_lists_the_packages_in_the_order_of_their_layers():
    section = PAGES["architecture"].split("\n## Packages\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE) == list(LAYERS)


def test_the_architecture_names_files_that_exist():
    named = {name for name in re.findall(r"`([\w./]+)`", PAGES["architecture"]) if "/" in name or name.endswith(".py")}
    assert [name for name in sorted(named) if not any((top / name).exists() for top in (ROOT, PACKAGE))] == []
    assert len(named) > 60


def test_types_are_where_the_architecture_page_states():
    rows = re.findall(r"^\| `(\w+)` \| `([\w/]+\.py)` \|", PAGES["architecture"], flags=re.MULTILINE)
    files = {name: (PACKAGE / file).read_text(encoding="utf-8") for name, file in rows}
    assert [name for name, text in files.items() if not re.search(rf"^class {name}\b", text, flags=re.MULTILINE)] == []
    assert len(rows) > 10


def test_a_package_of_more_than_ten_files_has_a_readme():
    files = {folder: [file.name for file in folder.iterdir() if file.is_file()] for folder in FOLDERS}
    large = [folder for folder, names in files.items() if len({*names} - {"__init__.py", "README.md"}) > 10]
    assert [str(folder) for folder in large if folder not in READMES] == []
    assert len(large) > 10


@pytest.mark.parametrize("folder", sorted(set(READMES) - {PACKAGE / "quickstart"}), ids=lambda one: one.name)
def test_the_readme_of_a_package_is_short_and_names_files_that_exist(folder):
    text = READMES[folder]
    assert text.startswith(f"# {folder.relative_to(PACKAGE).as_posix()}\n")
    assert 10 <= text.count("\n") <= 30
    names = sorted(set(re.findall(r"[\w/]+\.py\b", text)))
    assert [name for name in names if not any((top / name).is_file() for top in (folder, ROOT, PACKAGE))] == []
    assert names
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if not (folder / link).is_file()] == []


def test_every_key_that_is_named_exists():
    """Dotted ones; the name of an entry of a mapping is free."""
    sections = {name.split(".")[0] for name in KEYS if "." in name}
    text = "\n".join(PAGES.values())
    named = set(re.findall(rf"(?<![\w./-])((?:{'|'.join(sections)})\.[a-z_]\w*(?:\.[\w<>]+)*)", text))
    keys = {name for name in named if not name.endswith((".py", ".json", ".jsonl", ".yaml", ".html", ".md"))}
    unknown = [name for name in keys if find_key(name) is None and find_key(name.rpartition(".")[0]) is None]
    assert [name for name in unknown if not any(key.startswith(f"{name}.") for key in KEYS)] == []
    assert len(keys) > 200


def test_the_pages_of_data_name_every_format_and_filter():
    named = set(re.findall(r"`(\w+)`", PAGES["data"]))
    assert [name for name in FORMATS if name not in named] == []
    assert [name for name in CLEAN_STEPS if name not in named] == []
    assert len(CLEAN_STEPS) > 5


VALUES = {
    "optimizers": ["trainer.optimizer", "trainer.schedule"],
    "memory": ["speed.gradient_checkpointing"],
    "data": ["data.strategy", "data.overflow", "data.stages[].order"],
    "templates-and-masks": ["data.train_on"],
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in VALUES.items() for key in keys])
def test_the_tables_of_values_are_complete_and_mark_the_default(name, key):
    for value in KEYS[key].kind:
        assert f"`{value.value}`" in PAGES[name]
    default = KEYS[key].default.value
    assert f"`{default}` (default)" in PAGES[name] or key == "data.stages[].order"


@pytest.mark.parametrize(("name", "group"), [("multi-gpu", "distributed"), ("templates-and-masks", "template")])
def test_the_tables_of_options_are_complete(name, group):
    options = [file.stem for file in (ROOT / "configs" / group).glob("*.yaml")]
    assert [option for option in options if not re.search(rf"`(?:{group}=)?{option}`", PAGES[name])] == []
    assert len(options) > 3


def test_every_term_of_the_loss_has_its_row():
    terms = [name for name in KEYS if name.startswith("loss.")]
    assert [name for name in terms if f"`{name}" not in PAGES["losses"]] == []


def test_every_file_of_a_run_has_its_row(tmp_path):
    from sft_cli.run_dir import RunDir

    (tmp_path / "adapter").mkdir()
    paths = [getattr(RunDir(tmp_path), name) for name, part in vars(RunDir).items() if isinstance(part, property)]
    names = {path.relative_to(tmp_path).parts[0] for path in paths}
    assert [name for name in names if f"`{name}`" not in PAGES["run-directory"].replace("/`", "`")] == []
    assert len(names) > 15


def test_table_of_adapters_is_complete_and_correct():
    from sft_cli.config.schema.adapter import MERGEABLE, WHOLE, AdapterKind

    table = re.search(r"\| `adapter=`(.*?)\n\n", PAGES["adapters"], flags=re.DOTALL)
    assert table
    documented = {}
    for line in table.group(1).splitlines()[2:]:
        names, _, packed, merged, _ = [cell.strip() for cell in line.strip("|").split("|")]
        documented |= dict.fromkeys(re.findall(r"`(\w+)`", names), (packed, merged))
    options = {file.stem: yaml.safe_load(file.read_text()) or {} for file in (ROOT / "configs/adapter").glob("*.yaml")}
    assert set(documented) == set(options)
    for name, (packed, merged) in documented.items():
        kind = AdapterKind(options[name].get("kind", "lora"))
        assert (packed == "yes") == (kind not in (AdapterKind.prefix, AdapterKind.prompt))
        expected = "yes" if kind in MERGEABLE else "whole model" if kind in WHOLE else "no"
        assert merged == ("`--into dequantized`" if name == "loftq" else expected)


if __name__ == "__main__":
    GOLDEN.write_text(configuration_page(), encoding="utf-8")
    print(f"wrote {GOLDEN}")
