"""What safetensors says of a disk it cannot write to becomes a sentence; other errors stay."""

import pytest
from safetensors import SafetensorError

from sft_cli.errors import SftError
from sft_cli.utils.disks import written


def test_an_error_of_safetensors_is_a_sentence(tmp_path):
    with pytest.raises(SftError) as caught, written(tmp_path / "model", "free disk space"):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    assert str(caught.value) == (
        f"{tmp_path}/model: it cannot be written: I/O error: No space left on device (os error 28)\n"
        "  fix: free disk space"
    )


def test_another_error_stays_as_it_is(tmp_path):
    with pytest.raises(KeyError), written(tmp_path, "free disk space"):
        raise KeyError("a tensor")
