"""The cluster of the session, and submit.py as a module."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from getpass import getuser
from pathlib import Path
from types import ModuleType

import pytest
from slurm_cluster import SCRIPTS, SYSTEM_PATH, Cluster, configure, logs, start, waited_for


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster for the whole session; skips where SLURM is not installed. Needs no root: all daemons run as we do."""
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


@pytest.fixture(scope="session")
def submit() -> ModuleType:
    """scripts/slurm/submit.py as a module."""
    spec = importlib.util.spec_from_file_location("submit", SCRIPTS / "submit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["submit"] = module
    spec.loader.exec_module(module)
    return module
