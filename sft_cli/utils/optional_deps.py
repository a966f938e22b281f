"""Libraries that only some cleaning filters need."""

from importlib.util import find_spec

from sft_cli.errors import SftError

PACKAGES = {
    "rensa": "rensa",
    "rapidfuzz": "rapidfuzz",
    "phonenumbers": "phonenumbers",
    "stdnum": "python-stdnum",
    "py3langid": "py3langid",
}
"""Module -> package that provides it."""


def needs(module: str, step: str) -> None:
    """Refuse a step whose library is not installed."""
    if find_spec(module) is None:
        raise SftError(
            where="clean.steps",
            problem=f"the step {step} needs {PACKAGES[module]}, which is not installed",
            fix="pip install 'sft-cli[clean]'",
        )
