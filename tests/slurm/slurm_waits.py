"""A fake trainer that waits to be stopped, in place of ``sft``, and the signals that stop it."""

from pathlib import Path

from slurm_cluster import Cluster, waited_for

WAITS = """\
#!/bin/bash
# A trainer that works until a signal stops it; its last life finishes at once.
run="$3"
trap 'echo "saved after USR1"; exit 138' USR1
trap 'echo "saved after TERM"; exit 143' TERM
echo "life" >>"$run/lives"
if [ "$(wc -l <"$run/lives")" -gt @LIVES@ ]; then echo "finished"; exit 0; fi
while true; do sleep 0.1; done
"""


def trainer(tmp_path: Path, lives: int) -> str:
    """A launcher.setup line for a trainer that is stopped in this many lives before it finishes."""
    script = tmp_path / "bin" / "sft"
    script.parent.mkdir()
    script.write_text(WAITS.replace("@LIVES@", str(lives)))
    script.chmod(0o755)
    return f'launcher.setup="export PATH={script.parent}:$PATH"'


def begun(cluster: Cluster, job: str, run: Path, lives: int = 1) -> None:
    """Wait until the trainer has started this many times."""

    def alive() -> bool:
        cluster.hasten(job)
        return (run / "lives").exists() and len((run / "lives").read_text().splitlines()) >= lives

    waited_for(alive, f"life {lives} of job {job}", 60)


def warn(cluster: Cluster, job: str) -> None:
    """Send the signal that SLURM sends before the time limit."""
    assert cluster.call("scancel", "--batch", "--signal=USR1", job).returncode == 0
