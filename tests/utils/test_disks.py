"""Errors of safetensors on an unwritable disk become an SftError; other errors are unchanged."""

import pytest
from safetensors import SafetensorError

from sft_cli.errors import SftError
from sft_cli.utils.disks import translate_disk_errors


def test_an_error_of_safetensors_is_a_sentence(tmp_path):
    with pytest.raises(SftError) as caught, translate_disk_errors(tmp_path / "model", "free disk space"):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    assert str(caught.value) == (
        f"{tmp_path}/model: the weights cannot be written: I/O error: No space left on device (os error 28)\n"
        "  fix: free disk space"
    )


def test_other_errors_are_unchanged(tmp_path):
    with pytest.raises(KeyError), translate_disk_errors(tmp_path, "free disk space"):
        raise KeyError("a tensor")
