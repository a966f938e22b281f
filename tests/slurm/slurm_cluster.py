"""A real SLURM on this machine: two nodes, loopback, its own MUNGE key and socket, in one directory."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from getpass import getuser
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

SCRIPTS = Path(__file__).parents[2] / "scripts" / "slurm"
HOST = socket.gethostname().split(".")[0]
SYSTEM_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # Debian's daemons are not on a plain user's PATH
NO_GPU = ["recipe=quickstart", "launcher=slurm", "launcher.gpus=0", "launcher.cpus=1", "launcher.time=5"]
FINAL_STATES = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

SLURM_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
JobRequeue=1
OverTimeLimit=0
InactiveLimit=0
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
GresTypes=gpu
NodeName=DEFAULT CPUs=2 RealMemory=4000 Gres=gpu:2 Feature=tests State=UNKNOWN
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}
NodeName={host}2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2}
PartitionName=short Nodes={host} Default=YES MaxTime=01:00:00 State=UP PriorityTier=1 GraceTime=20
PartitionName=loose Nodes={host} MaxTime=01:00:00 State=UP PriorityTier=1
PartitionName=pair Nodes={host},{host}2 MaxTime=01:00:00 State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=01:00:00 State=UP PriorityTier=9
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster; ``environment`` leads SLURM's commands to it.

    Each of two nodes has two cores and two GPUs, which are files like any other. The partitions: ``short`` has the
    first node; ``loose`` and ``urgent`` too, and urgent's jobs preempt those of short after a grace of 20 s, those of
    loose at once; ``pair`` has both nodes.
    """

    environment: dict[str, str]

    def call(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster, whatever its exit status."""
        return subprocess.run(command, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=60)

    def job(self, job_id: str) -> dict[str, str]:
        """Return SLURM's record of a job, such as ``JobState`` and ``Restarts``."""
        shown = self.call("scontrol", "show", "job", "--oneliner", job_id)
        assert shown.returncode == 0, shown.stderr
        return dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)

    def hasten(self, job_id: str) -> None:
        """Start a requeued job after 5 s instead of 121; earlier, the node takes it for the life that just ended."""
        state, _, start = self.call("squeue", "-h", "-o", "%T %S", "-j", job_id).stdout.strip().partition(" ")
        if (
            state == "PENDING"
            and start != "N/A"
            and 0 < (datetime.fromisoformat(start) - datetime.now()).total_seconds() < 116
        ):
            self.call("scontrol", "update", f"JobId={job_id}", "StartTime=now")

    def wait(self, job_id: str, seconds: float) -> str:
        """Return the state in which the job ended, e.g. ``COMPLETED``."""

        def final_state() -> str | None:
            self.hasten(job_id)
            state = self.job(job_id)["JobState"]
            return state if state in FINAL_STATES else None

        return waited_for(final_state, f"job {job_id} to end", seconds)


def waited_for(look: Callable[[], Found | None], what: str, seconds: float) -> Found:
    """Return the first true result of ``look``; raise ``TimeoutError`` if there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"waited {seconds} s for {what}")


def free_ports(num_ports: int) -> list[int]:
    """Return different free TCP ports of the loopback device."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num_ports)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def configure(home: Path) -> dict[str, str]:
    """Write slurm.conf and the MUNGE key; returns the environment that leads to them."""
    (home / "state").mkdir()
    key = home / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    controller_port, port, port2 = free_ports(3)
    conf = SLURM_CONF.format(
        home=home,
        host=HOST,
        user=getuser(),
        controller_port=controller_port,
        port=port,
        port2=port2,
    )
    (home / "slurm.conf").write_text(conf)
    (home / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    ours = {"SLURM_CONF": str(home / "slurm.conf"), "PATH": SYSTEM_PATH}
    return {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))} | ours


def daemons(home: Path) -> list[list[str]]:
    """Return the commands of the daemons, in start order; each stays in the foreground."""
    munged = ["munged", "--foreground"]
    for option in ("socket", "key-file", "pid-file", "seed-file", "log-file"):
        munged.append(f"--{option}={home}/munge.{option.removesuffix('-file')}")
    nodes = [["slurmd", "-D", "-N", name] for name in (HOST, f"{HOST}2")]
    return [munged, ["slurmctld", "-D"], *nodes]


def start(cluster: Cluster, home: Path, running: list[subprocess.Popen[bytes]]) -> None:
    """Start the daemons, adding each to ``running`` at once, and wait until the node is idle."""
    for command in daemons(home):
        with open(home / f"{len(running)}_{command[0]}.output", "wb") as output:
            process = subprocess.Popen(command, env=cluster.environment, stdout=output, stderr=subprocess.STDOUT)
        running.append(process)
        if command[0] == "munged":
            waited_for((home / "munge.socket").exists, "munged's socket", 20)
    waited_for(lambda: set(cluster.call("sinfo", "-h", "-o", "%T").stdout.split()) == {"idle"}, "idle nodes", 30)


def logs(home: Path) -> str:
    """Return the logs of the daemons, for the error of a cluster that does not start."""
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(home.glob("*.output")))


def submit_sh(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run submit.sh as a user does, with this interpreter and these further variables."""
    command = ["bash", str(SCRIPTS / "submit.sh"), *arguments]
    ours = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run(command, cwd=cwd, env=ours, capture_output=True, text=True, timeout=60)


def submitted(cluster: Cluster, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call submit.sh against the cluster."""
    return submit_sh(*NO_GPU, *arguments, cwd=cwd, **(cluster.environment | environment))


def job_of(result: subprocess.CompletedProcess[str]) -> str:
    """Return the job id in the output of submit.sh."""
    found = re.match(r"job     (\d+)\n", result.stdout)
    assert found, result.stdout + result.stderr
    return found[1]


def log_of(run: Path, job: str) -> str:
    return (run / f"slurm-{job}.log").read_text()


def losses(run: Path) -> dict[int, float]:
    """Return step -> training loss."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if not row.get("eval")}
