"""A process that has imported everything and forks real `sft` processes from itself: 50 starts cost no 50 imports.

Reads a JSON object a line and answers with one: {"start": …} with the process id, {"wait": pid, "block": bool} with its
exit code (negative: the signal that killed it) or null. A forked process is a process like any other: it has its own
memory, files and signals, and SIGKILL kills it.
"""

import json
import os
import sys
import traceback
from typing import Any


def serve() -> None:
    """Answer until standard input ends."""
    warm()
    answers = os.fdopen(os.dup(1), "w")
    print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            pid = os.fork()
            if pid == 0:
                answers.close()
                run(asked["start"])
            answer: dict[str, Any] = {"pid": pid}
        else:
            found, status = os.waitpid(asked["wait"], 0 if asked["block"] else os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if found else None}
        print(json.dumps(answer), file=answers, flush=True)


def warm() -> None:
    """Import what the commands import; nothing is computed, so that no thread runs when the process is forked."""
    import threading

    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    import transformers.models.auto.modeling_auto  # noqa: F401

    import sft_cli.cli
    import sft_cli.config.compose
    import sft_cli.merge.merge
    import sft_cli.prepare.prepare
    import sft_cli.train.session  # noqa: F401

    assert threading.active_count() == 1, threading.enumerate()


def run(start: dict[str, Any]) -> None:
    """Become ``sft WORDS``; never returns."""
    code = 1
    try:
        with open(start["out"], "ab") as out, open(start["err"], "ab") as err, open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
        os.environ.update(start["environment"])
        sys.argv = ["sft", *start["words"]]
        exec(start["before"], {"__name__": "before"})
        from sft_cli.cli import main

        main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
