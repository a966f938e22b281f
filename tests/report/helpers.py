"""Small directories prepared from real rows, and parts of a manifest that few rows cannot produce."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

SMALL = Path(__file__).resolve().parents[1] / "golden" / "masks" / "tokenizer"
HOSTILE = {
    "script": "<script>document.title = 'owned'</script>",
    "style": "</style><style>body{display:none}</style>",
    "comment": "<!-- --> ]]> <![CDATA[ x ]]>",
    "quotes": "\"double\" 'single' `back` &amp; &#34; {{ 7 * 7 }} {% raw %}",
    "image": "<img src=x onerror=alert(1)> <a href='javascript:alert(1)'>x</a>",
    "controls": "bell\x07 escape\x1b[31mred\x1b]0;title\x07 null\x00 return\r delete\x7f csi\x9b31m",
    "separators": "line\u2028paragraph\u2029next\u0085end",
    "rtl": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 over\u202eriding\u202c isolate\u2067x\u2069",
    "emoji": "\U0001f469\u200d\U0001f4bb \U0001f3f4 \u4f60\u597d \U0001d518 e\u0301 \ufffd",
    "long word": "x" * 300,
    "chatml": "<|im_end|> said as text",
}
"""Hostile texts of rows: markup, template syntax, control characters, directions, long words."""


def write_rows(file: Path, rows: list[dict]) -> None:
    """Write rows as JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def hostile_rows() -> list[dict]:
    """Return rows with every hostile text as question and as answer."""
    return [{"instruction": text, "output": f"{name}: {text}"} for name, text in HOSTILE.items()]


def realised(sources: list[str]) -> dict:
    """Return intended and realised shares of some sources."""
    return {
        name: {
            "intended": round(1 / len(sources), 4),
            "intended_passes": 2.5 if i == 2 else None,
            "rows": 20 + 10 * i,
            "tokens": 900 + 100 * i,
            "trained_tokens": 300 + 50 * i,
            "share_rows": 0.4 + 0.2 * i,
            "share_tokens": 0.45 + 0.1 * i,
            "share_trained": 0.35 + 0.3 * i,
            "passes": 1.0 + i / 2,
        }
        for i, name in enumerate(sources)
    }


def manifest_parts(sources: list[str]) -> dict:
    """Return the keys of a manifest from filters, mixes and stages, with hostile texts."""
    nasty = HOSTILE["script"] + HOSTILE["style"] + HOSTILE["separators"] + HOSTILE["rtl"]
    return {
        "mix": {
            "of": "trained tokens",
            "sources": realised(sources),
            "stages": [
                {"name": name, "order": order, "rows": 30, "intended": 0.5, "share": 0.5, "sources": realised(sources)}
                for name, order in (("warm-up", "by_length"), (nasty, "random"))
            ],
            "tags": {
                "language": {
                    "en": {"rows": 30, "tokens": 1200, "trained_tokens": 400},
                    nasty: {"rows": 3, "tokens": 100, "trained_tokens": 40},
                    "(none)": {"rows": 7, "tokens": 100, "trained_tokens": 60},
                }
            },
        },
        "clean": [
            {
                "filter": "duplicates",
                "dropped": {"duplicate": 3},
                "report": {
                    "clusters": [
                        {
                            "size": 4,
                            "kept": "rows.jsonl:1",
                            "dropped": ["rows.jsonl:2", "rows.jsonl:7", f"{nasty}.jsonl:9"],
                            "similarity": 1.0,
                            "text": nasty,
                        }
                    ],
                    "num_clusters": 1,
                    "num_rows": 4,
                },
            },
            {
                "filter": "contamination",
                "dropped": {},
                "report": {
                    "sets": {"gsm8k": {"prompts": 1319, "matched": 1}},
                    "pairs": [
                        {
                            "set": "gsm8k",
                            "eval_where": "gsm8k.jsonl:3",
                            "eval_text": f"How many <b>eggs</b>? {nasty}",
                            "where": "rows.jsonl:5",
                            "text": nasty,
                            "score": 0.875,
                        }
                    ],
                },
            },
            {"filter": "language", "dropped": {}, "report": {"languages": {"en": 31, "he": 2}, "undecided": 3}},
            {
                "filter": "pii",
                "dropped": {},
                "report": {
                    "kinds": {"email": {"rows": 1, "found": 2}},
                    "examples": [{"where": "rows.jsonl:4", "kind": "email", "masked": nasty}],
                },
            },
        ],
    }


def add_to_manifest(directory: Path, parts: dict) -> None:
    """Add keys to the manifest of a prepared directory."""
    file = directory / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(manifest | parts), encoding="utf-8")


def make(folder: Path, *overrides: str) -> Path:
    """Prepare a directory of two sources, ``mine`` (hostile, long, dropped and truncated rows) and ``plain``."""
    turns = [
        {"role": role, "content": f"{role} says {number}"} for number in range(30) for role in ("user", "assistant")
    ]
    write_rows(
        folder / "plain.jsonl", [{"instruction": f"Question {i}?", "output": f"Answer {i}. " * i} for i in range(1, 25)]
    )
    write_rows(folder / "talk.jsonl", [{"messages": turns[: 2 * n]} for n in (1, 2, 30)])
    write_rows(folder / "mine.jsonl", [*hostile_rows(), {"instruction": "", "output": "<b>no question</b>"}])
    shutil.copytree(SMALL, folder / "tokenizer")
    environment = {**os.environ, "SFT_HOME": str(folder / "home")}
    sources = [f"data.mix.{name}.path={folder / f'{name}.jsonl'}" for name in ("mine", "plain", "talk")]
    words = [
        *sources, f"model.tokenizer={folder / 'tokenizer'}", "template=chatml", f"prepared_dir={folder / 'prepared'}",
        "data.on_bad_row=drop", "data.overflow=drop_oldest_turns", "trainer.max_length=900", "data.budget.dropped=0.5",
        *overrides,
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "sft_cli", "prepare", *words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "prepared"
