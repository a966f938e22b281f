"""Code in the sandbox: right and wrong answers, and programs that try to harm, each contained."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from sft_cli.errors import SftError
from sft_cli.scoring import sandbox_process
from sft_cli.scoring.code import describe_failure, extract_code
from sft_cli.scoring.sandbox_process import SandboxLimits, run_python, sandbox_mode
from tests.scoring.items import score, verdict

LIMITS = SandboxLimits(seconds=2, memory=256 << 20, processes=16, file_bytes=1 << 20)
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"


@pytest.fixture(scope="session")
def sandbox():
    """Skip where the machine has no sandbox."""
    try:
        return sandbox_mode()
    except SftError as error:
        pytest.skip(error.problem)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na = 1\n```", "a = 1"),
        ("Text\n```py\na = 1\n```\nand\n```python\nb = 2\n```", "a = 1\n\nb = 2"),
        ("```\na = 1\n```\n```bash\nls\n```", "a = 1"),
        ("```python\na = 1", "a = 1"),
        ("    return a + b", "    return a + b"),
        ("<think>```python\nbad\n```</think>```python\na = 1\n```", "a = 1"),
        ("", ""),
    ],
)
def test_the_code_of_an_answer(text, code):
    assert extract_code(text) == code


@pytest.mark.usefixtures("sandbox")
def test_a_right_answer_passes_and_one_that_ends_the_process_does_not():
    assert score("code", "```python\ndef add(a, b):\n    return a + b\n```", tests=TESTS) == 1
    found = verdict("code", "import os\nos._exit(0)", tests=TESTS)
    assert (found.scores, found.label) == ({"passed": 0}, "ended")


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("code", "label", "reason"),
    [
        ("def add(a, b): return a - b", "wrong", "AssertionError"),
        ("def add(a, b) return a", "syntax", "SyntaxError: expected ':'"),
        ("def plus(a, b): return a", "error", "NameError: name 'add' is not defined"),
        ("", "empty", "there is no code"),
        ("import sys; sys.exit(0)", "ended", "it ended before its tests did"),
        ("print('x' * 40)\ndef add(a, b): return a + b", "passed", ""),
        ("while True: pass", "timeout", "it did not end within the limit of time"),
        ("x = bytearray(10 ** 12)", "memory", "it needed more memory than the limit"),
        ("\0", "error", None),
        ("9" * 1_000_000, "syntax", None),
    ],
)
def test_failures_have_a_class_and_a_reason(code, label, reason):
    found = verdict("code", code, options={"seconds": 1}, tests=TESTS.splitlines())
    if code == "\0":
        assert found.scores == {"passed": 0}
        return
    assert found.label == label
    assert reason is None or found.reason == reason


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
def test_completions_of_a_signature_and_a_check_function():
    fields = {
        "prompt": 'def add(a, b):\n    """Add."""\n',
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
        "entry_point": "add",
    }
    options = {"tests": "test", "before": "prompt", "entry_point": "entry_point"}
    assert score("code", "    return a + b\n", options=options, **fields) == 1
    assert score("code", "    return a - b\n", options=options, **fields) == 0
    assert score("code", "```python\ndef add(a, b):\n    return a + b\n```", options=options, **fields) == 1
    with pytest.raises(SftError, match="item 1: the column test has no tests"):
        score("code", "x", options=options, prompt="")


HARM = {
    "fork bomb": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
    "endless loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "memory": "x = []\nwhile True: x.append(bytearray(10_000_000))",
    "memory of many": "import os, time\nfor _ in range(3): os.fork()\nx = bytearray(200 << 20)\ntime.sleep(60)",
    "write to the system": "open('/usr/written', 'w')",
    "write to the root": "open('/written', 'w')",
    "write to devices": "open('/dev/written', 'w')",
    "fill shared memory": "for i in range(1000): open(f'/dev/shm/{i}', 'wb').write(b'0' * 1_000_000)",
    "large file": "open('/tmp/x', 'wb').write(b'0' * (10 << 20))",
    "network": "import socket\nsocket.create_connection(('1.1.1.1', 80), timeout=5)",
    "local network": "import socket\ns = socket.socket()\ns.connect(('127.0.0.1', 22))",
    "huge output": "import sys\nwhile True: sys.stdout.write('x' * 100_000)",
    "kill others": "import os\nos.kill(1, 9)\nos.kill(os.getppid(), 9)\nos.kill(-1, 9)\nraise SystemExit(3)",
    "raise limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "password file": "open('/etc/passwd')",
}
UNTIL_TIMEOUT = {"fork bomb", "endless loop", "sleep"}


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("name", HARM)
def test_harm_is_contained(name):
    start = time.monotonic()
    result = run_python(HARM[name], "", LIMITS)
    assert result.exit_code != 0
    assert len(result.stdout) <= sandbox_process.TAIL
    assert result.timed_out == (name in UNTIL_TIMEOUT), result
    assert time.monotonic() - start < LIMITS.seconds * sandbox_process.WALL_FACTOR + 30
    assert not Path("/usr/written").exists()
    # The machine still starts processes, and no program of the sandbox is left.
    assert run_python("print(1)", "", LIMITS).stdout == "1\n"
    left = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    assert not [line for line in left if HARM[name].encode() in line]


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
def test_nothing_of_the_user_is_seen(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    monkeypatch.setenv("TOKEN", "secret")
    values = f"dict(os.environ), os.path.exists({str(secret)!r}), os.getuid(), os.listdir('/proc')"
    program = f"import json, os\nprint(json.dumps([{values}]))"
    environment, seen, user, processes = json.loads(run_python(program, "", LIMITS).stdout)
    assert "TOKEN" not in environment
    assert (seen, user) == (False, 65534)
    assert len([name for name in processes if name.isdigit()]) <= 3


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
def test_control_groups_are_removed():
    run_python("print(1)", "", LIMITS)
    own = f"**/sft-{os.getpid()}-*"  # other processes of the tests have theirs at the same time
    assert [file for file in Path("/sys/fs/cgroup").glob(own) if file.is_dir()] == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no interpreter that other users may read")
def test_a_user_of_its_own_bounds_the_processes_without_a_control_group(sandbox, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    mode = sandbox_process.SandboxMode(has_group=False, own_user=sandbox.has_group or sandbox.own_user)
    result = sandbox_process._run([sandbox_process.PROBE, "6"], "", SandboxLimits(seconds=5, processes=6), mode)
    assert "bounded" in result.stdout, result


def test_a_machine_without_a_sandbox_is_refused(monkeypatch):
    sandbox_mode.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    try:
        with pytest.raises(SftError) as error:
            score("code", "x = 1", tests="assert x")
        assert str(error.value) == (
            "metric: answers with code are run in a sandbox, and bubblewrap (bwrap) is not installed\n"
            "  fix: sudo apt-get install bubblewrap  # or dnf, pacman"
        )
    finally:
        sandbox_mode.cache_clear()


def test_a_sandbox_that_does_not_bound_processes_is_refused(monkeypatch):
    sandbox_mode.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/bwrap")
    unbounded = sandbox_process.SandboxResult(0, "", "", False)
    monkeypatch.setattr(sandbox_process, "_run", lambda *arguments: unbounded)
    try:
        with pytest.raises(SftError, match="this machine does not allow: the number of processes is not bounded"):
            sandbox_mode()
    finally:
        sandbox_mode.cache_clear()


def test_a_signal_of_the_memory_limit_is_explained():
    assert describe_failure(sandbox_process.SandboxResult(137, "", "", False))[0] == "memory"
