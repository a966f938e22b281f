"""Rows that are token ids already: the table gives ids and weights."""

import pytest

from sft_cli.config.data_schema import Role, SourceConfig
from sft_cli.data.formats import converter
from sft_cli.data.problems import RowError
from sft_cli.data.types import Row, TokenIds
from sft_cli.errors import SftError


def tokens(values, **config):
    (found,) = converter(SourceConfig(**config), "mine", "\n\n", values).convert(Row(values, "a:1", "mine"))
    assert (found.messages, found.text) == ((), None)
    return found.tokens


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
def test_labels_and_masks_say_the_same(columns):
    assert tokens({"input_ids": IDS, **columns}) == TokenIds((1, 50, 51, 2), (0.0, 0.0, 1.0, 1.0))


def test_nothing_predicts_the_first_token():
    assert tokens({"input_ids": IDS, "labels": IDS}) == TokenIds((1, 50, 51, 2), (0.0, 1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("ids", "labels", "mask"),
    [
        ([0, 0, 1, 50, 2], [-100, -100, -100, 50, 2], [0, 0, 1, 1, 1]),
        ([1, 50, 2, 0], [-100, 50, 2, -100], [1, 1, 1, 0]),
        ([0, 1, 50, 2, 0], [-100, -100, 50, 2, -100], [0, 1, 1, 1, 0]),
    ],
)
def test_padding_is_left_out(ids, labels, mask):
    """And the first token that is left has no weight."""
    found = tokens({"input_ids": ids, "labels": labels, "attention_mask": mask})
    assert found == TokenIds((1, 50, 2), (0.0, 1.0, 1.0))


def test_a_replayed_document_needs_no_labels():
    assert tokens({"input_ids": IDS}, role=Role.replay) == TokenIds((1, 50, 51, 2), (0.0, 1.0, 1.0, 1.0))
    assert tokens({"input_ids": IDS, "loss_mask": [0, 0, 1, 1]}, role=Role.replay).weights == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(
            {"input_ids": IDS},
            "it has input_ids, but no labels and no mask that say which tokens carry loss\n"
            "  fix: add labels (-100 where nothing is learned) or a loss_mask; role=replay trains whole documents",
            id="no-labels",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": [-100, 51, 2, -100]},
            "field 'labels' is 51 at token 1, where input_ids is 50: they are shifted by one already\n"
            "  fix: write the token's own id, or -100 where nothing is learned",
            id="shifted",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": [-100, -100, 51, 3]},
            "field 'labels' is 3 at token 3, where input_ids is 2\n"
            "  fix: write the token's own id, or -100 where nothing is learned",
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
            "field 'loss_mask' says something else than labels about token 1\n  fix: remove one of the two columns",
            id="contradiction",
        ),
        pytest.param(
            {"input_ids": IDS, "labels": [-100] * 4},
            "none of its tokens carries loss; there is nothing to learn to say\n"
            "  fix: remove the row; data.on_bad_row=drop leaves such rows out",
            id="nothing-trained",
        ),
        pytest.param(
            {"input_ids": [7], "labels": [7]},
            "none of its tokens carries loss; there is nothing to learn to say\n"
            "  fix: remove the row; data.on_bad_row=drop leaves such rows out",
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
def test_rows_that_cannot_be_used(values, expected):
    with pytest.raises(RowError) as caught:
        tokens(values)
    assert str(caught.value) == f"a:1: {expected}"


def test_variables_have_nothing_to_fill():
    with pytest.raises(SftError) as caught:
        tokens({"input_ids": IDS, "labels": IDS}, variables={"name": "x"})
    assert str(caught.value) == (
        "data.mix.mine.variables: it would have no effect: the format tokens does not read it\n"
        "  fix: leave data.mix.mine.variables out"
    )
