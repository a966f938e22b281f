"""The machine of a run: deterministic operations, and the error if torch has none."""

import os

import pytest
import torch

from sft_cli.errors import SftError
from sft_cli.train.setup.environment import translate_missing_determinism, use_deterministic_operations


@pytest.fixture
def restored(monkeypatch):
    """Restore the settings of this process afterwards."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_use_deterministic_operations(restored):
    use_deterministic_operations()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_missing_deterministic_operation_is_an_error_that_names_the_key():
    """The message of ATen's ``alertNotDeterministic``."""
    with pytest.raises(SftError) as caught, translate_missing_determinism():
        raise RuntimeError(
            "histc_cuda does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation"
        )
    assert str(caught.value) == (
        "trainer.deterministic=true: torch has no deterministic version of histc_cuda for this GPU\n"
        "  fix: trainer.deterministic=false"
    )


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="of another size"), translate_missing_determinism():
        raise RuntimeError("a tensor of another size")
