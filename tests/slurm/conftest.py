"""The SLURM cluster of the test session."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from getpass import getuser
from pathlib import Path

import pytest
from slurm_cluster import SYSTEM_PATH, Cluster, configure, logs, start, waited_for


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start a cluster for the whole session; skip if SLURM is not installed. Daemons run as this user, not as root."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=SYSTEM_PATH)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; .ci/install_slurm.sh installs SLURM where there is apt")
    home = Path(tempfile.mkdtemp(prefix="slurm-"))  # pytest's own directories are too long for a socket's name
    home.chmod(0o755)
    running: list[subprocess.Popen[bytes]] = []
    try:
        found = Cluster(configure(home))
        try:
            start(found, home, running)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{logs(home)}") from error
        yield found
        found.call("scancel", f"--user={getuser()}")
        waited_for(lambda: found.call("squeue", "-h").stdout == "", "the jobs to end", 60)
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=30)
        shutil.rmtree(home)


@pytest.fixture
def fake_sft(tmp_path: Path) -> str:
    """Return a launcher.setup line that puts an ``sft`` on PATH which only records its command line."""
    script = tmp_path / "bin" / "sft"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/bash\n"
        'printf "%s\\n" "$PWD" "$*" "${SFT_HOME-unset}" "$SLURM_CPUS_ON_NODE" "$SLURM_JOB_NAME" >>"$3/called"\n'
        'echo "trains"\n'
    )
    script.chmod(0o755)
    return f'launcher.setup="export PATH={script.parent}:$PATH"'
