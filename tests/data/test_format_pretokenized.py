"""Rows of token ids; the table gives the resulting ids and weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.config.schema.data import Role, SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError
from sft_cli.types import Row, TokenIds


def tokens(values, **config):
    (result,) = make_converter(SourceConfig(**config), "mine", "\n\n", values).convert(Row(values, "a:1", "mine"))
    assert (result.messages, result.text) == ((), None)
    return result.tokens


IDS = [1, 50, 51, 2]


@pytest.mark.parametrize(
    "columns",
    [
        {"labels": [-100, -100, 51, 2]},
        {"labels": [-100, -100, 51, 2], "attention_mask": [1, 1, 1, 1], "other": 1},
        {"labels": "[-100, -100, 51, 2]"},
        {"loss_mask": [0, 0, 1, 1]},
        {"assistant_masks": [False, False, True, True]},
        {"assistant_mask": [0, 0, 1, 1]},
        {"completion_mask": [0, 0, 1, 1]},
        {"labels": [-100, -100, 51, 2], "completion_mask": [0, 0, 1, 1], "loss_mask": None},
    ],
)
def test_labels_and_masks_give_the_same_weights(columns):
    assert tokens({"input_ids": IDS, **columns}) == TokenIds((1, 50, 51, 2), (0.0, 0.0, 1.0, 1.0))


def test_first_token_has_no_weight():
    assert tokens({"input_ids": IDS, "labels": IDS}) == TokenIds((1, 50, 51, 2), (0.0, 1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("ids", "labels", "mask"),
    [
        ([0, 0, 1, 50, 2], [-100, -100, -100, 50, 2], [0, 0, 1, 1, 1]),
        ([1, 50, 2, 0], [-100, 50, 2, -100], [1, 1, 1, 0]),
        ([0, 1, 50, 2, 0], [-100, -100, 50, 2, -100], [0, 1, 1, 1, 0]),
    ],
)
def test_padding_is_removed(ids, labels, mask):
    """The first remaining token has no weight."""
    result = tokens({"input_ids": ids, "labels": labels, "attention_mask": mask})
    assert result == TokenIds((1, 50, 2), (0.0, 1.0, 1.0))


def test_replayed_document_needs_no_labels():
    assert tokens({"input_ids": IDS}, role=Role.replay) == TokenIds((1, 50, 51, 2), (0.0, 1.0, 1.0, 1.0))
    assert tokens({"input_ids": IDS, "loss_mask": [0, 0, 1, 1]}, role=Role.replay).weights == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(
            {"input_ids": IDS},
            "the row has input_ids, but neither labels nor a mask of the trained tokens\n"
            "  fix: add labels (-100 for tokens without loss) or a loss_mask;"
            " data.mix.mine.role=replay trains whole documents",
            id="no-labels",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": [-100, 51, 2, -100]},
            "field 'labels' is 51 at token 1, where input_ids is 50: the labels are shifted by one\n"
            "  fix: write the id of the same token, or -100 for no loss",
            id="shifted",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": [-100, -100, 51, 3]},
            "field 'labels' is 3 at token 3, where input_ids is 2\n"
            "  fix: write the id of the same token, or -100 for no loss",
            id="other-labels",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": [51, 2]},
            "field 'labels' has 2 entries for 4 token ids\n  fix: write one for each token",
            id="length",
        ),
        pytest.param(
            {"input_ids": IDS, "loss_mask": [0, 0, 2, 1]},
            "field 'loss_mask' holds 2\n  fix: write 1 for a trained token and 0 for any other",
            id="mask",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": [-100, -100, 51, 2], "loss_mask": [0, 1, 1, 1]},
            "field 'loss_mask' contradicts labels at token 1\n  fix: remove one of the two columns",
            id="contradiction",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": [-100] * 4},
            "no token of the row carries loss; there is nothing to train on\n  fix: remove the row",
            id="nothing-trained",
        ),
        pytest.param(
            {"input_ids": [7], "labels": [7]},
            "no token of the row carries loss; there is nothing to train on\n  fix: remove the row",
            id="only-the-first",
        ),
        pytest.param(
            {"input_ids": [], "labels": []}, "field 'input_ids' has no tokens\n  fix: remove the row", id="empty"
        ),
        pytest.param(
            {"input_ids": [1, -1], "labels": [-100, -1]},
            "field 'input_ids' holds -1; token ids are at least 0\n  fix: encode the row again",
            id="negative",
        ),
        pytest.param(
            {"input_ids": [[1, 2]], "labels": [1, 2]},
            "field 'input_ids' is [[1, 2]] (a list); expected a list of whole numbers\n"
            "  fix: write it as a list of whole numbers, or point columns at another column",
            id="batch",
        ),
        pytest.param(
            {"input_ids": [True, 2], "labels": [1, 2]},
            "field 'input_ids' is [True, 2] (a list); expected a list of whole numbers\n"
            "  fix: write it as a list of whole numbers, or point columns at another column",
            id="truth",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": IDS, "attention_mask": [1, 0, 1, 1]},
            "field 'attention_mask' is 0 at token 1, in the middle of the row\n"
            "  fix: only padding at either end can be left out",
            id="gap",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": IDS, "attention_mask": [1, 1, 1, 0]},
            "field 'attention_mask' is 0 at a token that carries loss\n  fix: set its label to -100",
            id="trained-padding",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": IDS, "attention_mask": [0, 0, 0, 0]},
            "field 'attention_mask' is 0 everywhere\n  fix: remove the row",
            id="all-padding",
        ),
    ],
)
def test_invalid_rows_are_refused(values, expected):
    with pytest.raises(RowError) as caught:
        tokens(values)
    assert str(caught.value) == f"a:1: {expected}"


def test_variables_without_text_are_refused():
    with pytest.raises(SftError) as caught:
        tokens({"input_ids": IDS, "labels": IDS}, variables={"name": "x"})
    assert str(caught.value) == (
        "data.mix.mine.variables: the key has no effect: the format tokens does not read it\n"
        "  fix: remove data.mix.mine.variables"
    )


PACKED = {"input_ids": [1, 5, 2, 1, 6, 7, 2], "labels": [-100, 5, 2, -100, -100, 7, 2]}
APART = [TokenIds((1, 5, 2), (0.0, 1.0, 1.0)), TokenIds((1, 6, 7, 2), (0.0, 0.0, 1.0, 1.0))]
PADDED = {"input_ids": [*PACKED["input_ids"], 0, 0], "labels": [*PACKED["labels"], -100, -100]}


def split(values, **config):
    """Return the locations and the token ids of a row's documents."""
    result = make_converter(SourceConfig(format="tokens", **config), "mine", "\n\n", values)
    made = result.convert(Row(values, "a:1", "mine"))
    return [one.where for one in made], [one.tokens for one in made]


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param(PACKED | {"position_ids": [0, 1, 2, 0, 1, 2, 3]}, id="positions"),
        pytest.param(PACKED | {"seq_lengths": [3, 4]}, id="lengths"),
        pytest.param(PACKED | {"cu_seqlens": [0, 3, 7]}, id="ends"),
        pytest.param(PACKED | {"document_ids": [4, 4, 4, 0, 0, 0, 0]}, id="documents"),
        pytest.param(PACKED | {"attention_mask": [1, 1, 1, 2, 2, 2, 2]}, id="numbered-attention"),
        pytest.param(PACKED | {"seq_lengths": [3, 4], "position_ids": [0, 1, 2, 0, 1, 2, 3]}, id="two-that-agree"),
        pytest.param(PADDED | {"position_ids": [0, 1, 2, 0, 1, 2, 3, 0, 0]}, id="padding-at-position-0"),
        pytest.param(PADDED | {"attention_mask": [1, 1, 1, 2, 2, 2, 2, 0, 0]}, id="padded-numbered-attention"),
        pytest.param(
            PADDED | {"attention_mask": [1] * 7 + [0] * 2, "position_ids": [0, 1, 2, 0, 1, 2, 3, 1, 1]},
            id="padding-by-attention",
        ),
        pytest.param(
            PADDED | {"attention_mask": [1] * 7 + [0] * 2, "seq_lengths": [3, 4]}, id="lengths-without-padding"
        ),
        pytest.param(PADDED | {"seq_lengths": [3, 4, 2]}, id="lengths-with-padding"),
    ],
)
def test_documents_packed_into_a_row_are_separated(columns):
    assert split(columns) == (["a:1#1", "a:1#2"], APART)


def test_first_token_of_every_document_has_no_weight():
    row = {"input_ids": [1, 5, 1, 6], "labels": [1, 5, 1, 6], "position_ids": [0, 1, 0, 1]}
    assert [one.weights for one in split(row)[1]] == [(0.0, 1.0), (0.0, 1.0)]


def test_documents_without_loss_are_removed():
    row = PACKED | {"labels": [-100, -100, -100, -100, -100, 7, 2], "position_ids": [0, 1, 2, 0, 1, 2, 3]}
    assert split(row) == (["a:1"], APART[1:])
    assert split(PACKED | {"position_ids": list(range(7))})[0] == ["a:1"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"position_ids": [0, 1, 2, 0, 1, 2, 3], "seq_lengths": [4, 3]},
            "field 'seq_lengths' gives document starts 0, 4, but position_ids gives 0, 3\n"
            "  fix: 'data.mix.mine.ignore=[seq_lengths]' if position_ids is right",
        ),
        (
            {"position_ids": [0, 1, 2, 0, 1, 2, 4]},
            "field 'position_ids' is 4 at token 6, after 2\n"
            "  fix: write positions that count up by one, or restart at 0",
        ),
        (
            {"position_ids": [4, 5, 6, 0, 1, 2, 3]},
            "field 'position_ids' begins with 4, in the middle of a document\n"
            "  fix: write whole documents, with positions from 0",
        ),
        (
            {"seq_lengths": [3, 3]},
            "field 'seq_lengths' adds up to 6 for 7 token ids\n  fix: write the length of each document",
        ),
        (
            {"cu_seqlens": [0, 5, 3, 7]},
            "field 'cu_seqlens' does not ascend from 0\n  fix: write 0 and the end of each document",
        ),
        (
            {"position_ids": [0, 1, 2]},
            "field 'position_ids' has 3 entries for 7 token ids\n  fix: write one for each token",
        ),
    ],
)
def test_contradicting_columns_are_refused(columns, expected):
    with pytest.raises(RowError) as caught:
        split(PACKED | columns)
    assert str(caught.value) == f"a:1: {expected}"


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=5), st.integers(0, 3))
def test_packed_documents_are_separated(documents, padding):
    """The result equals that of one row per document; documents without loss are removed."""
    ids = [[10 * number + place for place in range(len(flags))] for number, flags in enumerate(documents)]
    trained = [[flag and place > 0 for place, flag in enumerate(flags)] for flags in documents]
    wanted = [
        TokenIds(tuple(one), tuple(map(float, flags))) for one, flags in zip(ids, trained, strict=True) if any(flags)
    ]
    flat = [token for one in ids for token in one]
    row = {
        "input_ids": flat + [0] * padding,
        "loss_mask": [int(flag) for flags in documents for flag in flags] + [0] * padding,
        "attention_mask": [1] * len(flat) + [0] * padding,
        "position_ids": [place for flags in documents for place in range(len(flags))] + [0] * padding,
        "seq_lengths": [len(flags) for flags in documents],
    }
    if wanted:
        assert split(row)[1] == wanted
    else:
        with pytest.raises(RowError, match="no token of the row carries loss"):
            split(row)
