"""What the tests of errors in a config share."""

import pytest

from sft_cli.errors import Mistakes, SftError


def raised_errors(run) -> list[tuple[str, str, str]]:
    """Return place, problem and fix of every error of the call."""
    with pytest.raises(SftError) as caught:
        run()
    errors = caught.value.errors if isinstance(caught.value, Mistakes) else [caught.value]
    return [(error.where, error.problem, error.fix) for error in errors]
