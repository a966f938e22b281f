"""Compare the config keys with a snapshot: every new, renamed or retyped key and every new default is a diff.

To accept a change: python -m tests.test_surface
"""

from pathlib import Path

from sft_cli.config.explain import describe_type, key_doc
from sft_cli.config.keys.valid_keys import KEYS
from sft_cli.config.validate import to_plain

SNAPSHOT = Path(__file__).parent / "golden" / "surface.txt"
HOW = "The keys of the config have changed. If that is meant: python -m tests.test_surface, and look at the diff."


def surface() -> str:
    """Return every key on a line: name, type, limits, default."""
    return "".join(
        f"{key.name}: {describe_type(key.kind)} {dict(key.limits) or ''}= {to_plain(key.default)!r}\n"
        for key in KEYS.values()
    )


def test_the_keys_are_those_of_the_snapshot():
    assert surface() == SNAPSHOT.read_text(encoding="utf-8"), HOW


def test_every_key_is_documented():
    assert [name for name, key in KEYS.items() if len(key_doc(key)) < 10] == []
    assert len(KEYS) > 60


if __name__ == "__main__":
    SNAPSHOT.write_text(surface(), encoding="utf-8")
    print(f"wrote {SNAPSHOT}")
