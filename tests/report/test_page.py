"""The page: texts are escaped, tokens equal those of the rows, the size is bounded, nothing is loaded."""

import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from datasets import load_from_disk

from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.escape import escape_control
from sft_cli.report import page as pages
from sft_cli.report.html import csp_hash
from sft_cli.report.page import write_report
from tests.report.helpers import HOSTILE, add_to_manifest, make, manifest_parts

VOID = {"meta", "input", "br", "link", "img"}


class Page(HTMLParser):
    """A parsed page: elements with their attributes and texts. Unmatched end tags are an error."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append({"tag": tag, "attributes": dict(attrs), "text": "", "depth": len(self._open)})
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "attributes": dict(attrs), "text": "", "depth": len(self._open)})

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag, **attributes):
        """Return the elements of a tag with some attributes."""
        return [
            element
            for element in self.elements
            if element["tag"] == tag and attributes.items() <= element["attributes"].items()
        ]


@pytest.fixture(scope="module")
def page(full):
    return Page((full / "report.html").read_text(encoding="utf-8"))


def rows(directory):
    """Return the examples of a directory by location."""
    splits = load_from_disk(str(directory))
    return {row["where"]: row for split in splits.values() for row in split}


def test_hostile_texts_add_no_elements(page):
    """Markup in a row, a tag, a reason or a name adds no element and no attribute."""
    assert len(page.all("script")) == len(page.all("style")) == len(page.all("html")) == 1
    assert not page.all("img")
    assert not page.all("link")
    names = {name for element in page.elements for name in element["attributes"]}
    assert not [name for name in names if name.startswith("on") or name in {"src", "style", "srcset", "action"}]
    assert {element["attributes"]["href"][0] for element in page.all("a")} == {"#"}
    targets = [element["attributes"]["href"][1:] for element in page.all("a")]
    ids = [element["attributes"]["id"] for element in page.elements if "id" in element["attributes"]]
    assert set(targets) <= set(ids)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "long word"])
def test_hostile_texts_are_shown_as_text(page, name):
    everything = "".join(element["text"] for element in page.all("article"))
    assert escape_control(f"{name}: {HOSTILE[name]}") in everything


def test_hidden_characters_never_reach_the_page(full):
    text = (full / "report.html").read_text(encoding="utf-8")
    assert escape_control(text) == text


def test_page_policy_allows_only_its_own_style_and_script(page, full):
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["attributes"]["content"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert csp_hash(page.all("script")[0]["text"]) in policy
    assert csp_hash(page.all("style")[0]["text"]) in policy
    text = (full / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(", text)


def test_tokens_of_a_row_equal_its_text_and_labels(page, full):
    """The text of all tokens equals the decoded ids; underlined text equals the decoded ids with loss."""
    tokenizer, known = load_tokenizer(str(full / "tokenizer")), rows(full)
    seen = 0
    for article, title in zip(page.all("article", **{"class": "row"}), titles(page), strict=True):
        row, shown = known[title], tokens_of(page, article)
        if "tokens left out" in article["text"]:
            continue
        assert shown["text"] == escape_control(tokenizer.decode_batch([row["input_ids"]])[0])
        trained = [id for id, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert shown["trained"] == escape_control(tokenizer.decode_batch([trained])[0])
        assert f"{len(row['input_ids'])} tokens · {len(trained)} with loss" in article["text"].replace(",", "")
        seen += 1
    assert seen > 35


def titles(page):
    """Return the locations of the gallery's rows."""
    return [
        page.elements[i + 2]["text"]
        for i, element in enumerate(page.elements)
        if element["tag"] == "article" and element["attributes"].get("class") == "row"
    ]


def tokens_of(page, article):
    """Return the text of all tokens of a row, and of the trained ones."""
    at = page.elements.index(article)
    inside = []
    for element in page.elements[at + 1 :]:
        if element["depth"] <= article["depth"]:
            break
        inside.append(element)
    whole = next(element for element in inside if element["attributes"].get("class") == "tokens")
    text = whole["text"]
    for summary in (element["text"] for element in inside if element["tag"] == "summary"):
        assert re.fullmatch(r"… [\d,]+ tokens without loss", summary)
        text = text.replace(summary, "", 1)
    return {"text": text, "trained": "".join(element["text"] for element in inside if element["tag"] == "u")}


def test_every_kind_and_source_is_in_the_gallery(page):
    result = {
        (element["attributes"]["data-source"], kind)
        for element in page.all("article", **{"class": "row"})
        for kind in element["attributes"]["data-kinds"].split("|")
    }
    for source in ("mine", "plain", "talk"):
        assert {(source, kind) for kind in ("longest", "shortest", "lowest trained share", "random")} <= result
    assert ("talk", "most truncated") in result
    assert ("mine", "most truncated") not in result


def test_drops_are_shown_with_rows(page):
    """The empty question is shown with reason, location and detail."""
    reasons = {element["text"].split("\n")[0] for element in page.all("summary")}
    assert any("empty instruction" in reason for reason in reasons)
    sentence = "field 'instruction' is ''; expected non-empty text"
    assert any(sentence in element["text"] for element in page.all("ul", **{"class": "examples"}))


def test_dropped_row_links_to_its_entry_and_back(page):
    """The dropped row is shown as it was read, and listed under the kind ``dropped``."""
    (article,) = page.all("article", **{"class": "row dropped"})
    assert article["attributes"]["data-kinds"] == "dropped"
    assert '"output": "<b>no question</b>"' in article["text"]
    links = {element["attributes"]["href"] for element in page.all("a")}
    assert f"#{article['attributes']['id']}" in links
    (entry,) = [one for one in page.all("li") if one["attributes"].get("id", "").startswith("drop-")]
    assert f"#{entry['attributes']['id']}" in links
    assert "mine.jsonl:12" in entry["text"]


def test_page_links_locations_of_shown_rows(full, tmp_path):
    """In a cluster of duplicates, the kept row links to its tokens and a dropped row to its original text."""
    directory = tmp_path / "prepared"
    shutil.copytree(full, directory)
    parts = manifest_parts(["mine", "plain", "talk"])
    named = {"kept": "plain.jsonl:3", "dropped": ["mine.jsonl:12", "absent.jsonl:1"]}
    parts["clean"][0]["report"]["clusters"][0] |= named
    add_to_manifest(directory, parts)
    result = Page(write_report(directory).read_text("utf-8"))
    links = {one["text"]: one["attributes"]["href"][1:] for one in result.all("a")}
    by_id = {one["attributes"].get("id"): one for one in result.elements}
    assert "plain.jsonl:3" in by_id[links["plain.jsonl:3"]]["text"]
    assert "no question" in by_id[links["mine.jsonl:12"]]["text"]
    assert "absent.jsonl:1" not in links


def test_page_names_model_template_and_files(page, full):
    """Model, tokenizer, template, and the files of each source."""
    facts = dict(zip((one["text"] for one in page.all("dt")), (one["text"] for one in page.all("dd")), strict=True))
    manifest = json.loads((full / "manifest.json").read_text("utf-8"))
    assert facts["model"] == "none: only a tokenizer was named"
    assert facts["tokenizer"] == manifest["tokenizer"]
    assert facts["tokenizer"].endswith("tokenizer")
    digest = hashlib.sha256(manifest["inputs"]["encode"]["template"].encode()).hexdigest()[:16]
    assert facts["chat template"] == f"chatml  sha256 {digest}"
    assert facts["source talk"] == "talk.jsonl"


def test_unread_columns_are_named(full, tmp_path):
    directory = tmp_path / "prepared"
    shutil.copytree(full, directory)
    manifest = json.loads((full / "manifest.json").read_text("utf-8"))
    manifest["sources"]["talk"] |= {"not_read": ["rating", "<b>"], "ignored": ["id"]}
    add_to_manifest(directory, {"sources": manifest["sources"]})
    result = Page(write_report(directory).read_text("utf-8"))
    (shown,) = [one["text"] for one in result.all("dd") if "not read" in one["text"]]
    assert shown == "talk.jsonlnot read: rating, <b>ignored on purpose: id"


def test_rows_dropped_for_personal_data_are_not_shown(tmp_path):
    """No text of these or other dropped rows is in the prepared directory."""
    directory = make(tmp_path, "clean.steps=[pii]", "clean.pii.action=drop")
    assert (directory / "dropped.jsonl").read_text("utf-8") == ""
    assert not Page((directory / "report.html").read_text("utf-8")).all("article", **{"class": "row dropped"})


def test_page_shows_intended_and_realised_shares(page):
    section = page.all("section", id="mix")[0]["text"]
    for words in ("33.3% of trained tokens", "2.5 passes", "35.0%", "65.0%", "95.0%"):
        assert words in section
    assert sum("aim" in element["attributes"].get("class", "") for element in page.elements) == 3 * 3


@pytest.mark.parametrize("section", ["duplicates", "contamination", "personal", "languages", "tags", "stages"])
def test_absent_parts_have_no_section(prepared, page, tmp_path, section):
    """Filters that did not run have no heading."""
    assert page.all("section", id=section)
    directory = tmp_path / "prepared"
    shutil.copytree(prepared, directory)
    file = directory / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    bare = {key: value for key, value in manifest.items() if key not in {"mix", "clean", "stages"}}
    file.write_text(json.dumps(bare), encoding="utf-8")
    assert not Page(write_report(directory).read_text(encoding="utf-8")).all("section", id=section)


def test_report_is_reproducible(prepared, tmp_path):
    """The bytes depend neither on the path of the directory nor on an earlier report."""
    for name in ("one", "two"):
        shutil.copytree(prepared, tmp_path / name)
        assert write_report(tmp_path / name) == tmp_path / name / "report.html"
    write_report(tmp_path / "two")
    assert (tmp_path / "one" / "report.html").read_bytes() == (tmp_path / "two" / "report.html").read_bytes()


def test_size_of_the_page_is_bounded(full, tmp_path, monkeypatch):
    """Long rows are shortened, and the page states how much is missing."""
    directory = tmp_path / "prepared"
    shutil.copytree(full, directory)
    whole = write_report(directory).stat().st_size
    monkeypatch.setattr(pages, "MAX_BYTES", whole - 20_000)
    assert write_report(directory).stat().st_size <= whole - 20_000
    assert re.search(r"… [\d,]+ tokens left out, [\d,]+ with loss …", (directory / "report.html").read_text("utf-8"))


def test_long_lists_are_shortened_and_counted(prepared, tmp_path):
    directory = tmp_path / "prepared"
    shutil.copytree(prepared, directory)
    parts = manifest_parts(["mine", "plain", "talk"])
    cluster, pair = parts["clean"][0]["report"]["clusters"][0], parts["clean"][1]["report"]["pairs"][0]
    parts["clean"][0]["report"] = {
        "clusters": [cluster | {"text": "t" * 10_000}] * 500,
        "num_clusters": 7000,
        "num_rows": 9,
    }
    parts["clean"][1]["report"]["pairs"] = [pair] * 500
    parts["clean"][2]["report"]["languages"] = {f"l{i}": i for i in range(500)}
    parts["mix"]["tags"] = {"t": {str(i): {"rows": 1, "tokens": 1, "trained_tokens": 1} for i in range(500)}}
    parts["dropped"] = {f"reason {i}": 1 for i in range(500)}
    add_to_manifest(directory, parts)
    text = write_report(directory).read_text("utf-8")
    assert len(text) < 1_000_000
    for remark in (
        "7,000 clusters of 9 rows, the 60 largest here",
        "440 weaker matches",
        "440 rarer languages",
        "440 rarer values",
        "440 rarer reasons",
    ):
        assert remark in text


def test_split_without_rows(full):
    """The validation split is empty here, and the page states it."""
    text = (full / "report.html").read_text("utf-8")
    assert "<dt>held out</dt><dd><strong>0 examples</strong> <span>every row is trained on</span>" in text
