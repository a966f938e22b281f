"""Comparing the logits of two models."""

import json
from dataclasses import replace

import pytest
import torch

from sft_cli.errors import SftError
from sft_cli.merge.agreement import Agreement, ComparisonRow, compare_logits, read_comparison_rows


def test_read_comparison_rows_needs_trained_tokens(tmp_path):
    file = tmp_path / "probes.json"
    file.write_text(json.dumps([{"where": "a:1", "input_ids": [1, 2], "labels": [1, -100]}]))

    with pytest.raises(SftError, match="there is no row with a trained token for comparing the models"):
        read_comparison_rows(file)


def test_compared_positions():
    """A label is at the index of its token, which the position before predicts; nothing predicts the first token."""
    probe = ComparisonRow("a:1", [9, 8, 7, 6, 5, 4], [9, -100, 7, 6, -100, 4])

    assert probe.compared_positions(10) == [1, 2, 4]
    assert probe.compared_positions(2) == [1, 2]
    assert probe.compared_positions(1) == [1]


def test_compare_logits_by_hand():
    """KL((3/4, 1/4) ‖ (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2, halved: the second of the two positions is equal."""
    first = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).log()
    second = torch.tensor([[1.0, 1.5], [1.0, 2.0]]).log()
    level = torch.tensor([[1.0, 1.0], [1.0, 2.0]]).log()
    expected = (0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()).item() / 2

    assert compare_logits([first], [level]).kl == pytest.approx(expected, rel=1e-6)
    assert compare_logits([first[:1], first[1:]], [second[:1], second[1:]]).argmax == 0.5
    assert replace(compare_logits([first], [first]), kl=0.0) == Agreement(0.0, 1.0, 2, 1)
