"""Schema of ``launcher`` and ``distributed``: where a run computes. Standard library only."""

from dataclasses import dataclass, field
from enum import Enum

from sft_cli.config.schema.fields import Auto, bounded


class LauncherKind(str, Enum):
    """The launcher of the processes: this shell, or SLURM."""

    local = "local"
    slurm = "slurm"


class ContainerKind(str, Enum):
    """The container runtime of a job: none, Apptainer, or the SLURM plugin Pyxis."""

    none = "none"
    apptainer = "apptainer"
    pyxis = "pyxis"


class DistributedKind(str, Enum):
    """Parallelism of several processes: each holds the whole model (ddp), or a shard of every tensor (fsdp)."""

    ddp = "ddp"
    fsdp = "fsdp"


@dataclass(kw_only=True)
class ContainerConfig:
    """The image a SLURM job runs in."""

    kind: ContainerKind = ContainerKind.none
    """none, apptainer (apptainer exec) or pyxis (srun --container-image)."""
    image: str | None = None
    """Image: a .sif file or docker:// address for apptainer, an enroot image or address for pyxis."""
    mounts: list[str] = field(default_factory=list)
    """Directories mounted inside, as HOST or HOST:INSIDE; the run, the working directory and SFT_HOME always are."""


@dataclass(kw_only=True)
class LauncherConfig:
    """Where the job runs; all keys but nproc are read by launcher=slurm only."""

    kind: LauncherKind = LauncherKind.local
    """local or slurm."""
    nproc: Auto | int = bounded(1, ge=1)
    """Processes per node that train the run together; auto: one per GPU. A SLURM job has one per GPU."""
    nodes: int = bounded(1, ge=1)
    """Nodes of the job."""
    partition: str | None = None
    """SLURM partition; null takes the cluster's default."""
    account: str | None = None
    """SLURM account to charge."""
    constraint: str | None = None
    """Features the nodes must have, as sbatch writes them (h100|a100)."""
    time: str = "24:00:00"
    """Time limit, as sbatch writes it (minutes, HH:MM:SS or D-HH:MM:SS)."""
    gpus: int = bounded(1, ge=0)
    """GPUs per node; 0 for a CPU job, which then has launcher.nproc processes."""
    cpus: int = bounded(8, ge=1)
    """CPU cores per process."""
    memory: str | None = None
    """Memory per node, as sbatch writes it (32G); null takes the cluster's default."""
    mail: str | None = None
    """Address that SLURM writes to when the job ends, fails or is requeued."""
    signal_seconds: int = bounded(120, ge=0)
    """Seconds before the time limit at which the job saves and requeues itself; 0: never."""
    requeues: int = bounded(100, ge=0)
    """Most times the job requeues itself after a time limit or a preemption."""
    chain: int = bounded(1, ge=1)
    """Number of jobs submitted in sequence, each resuming where the job before it stopped."""
    modules: list[str] = field(default_factory=list)
    """Environment modules loaded in the job (module load)."""
    setup: str = ""
    """Shell line run before sft, e.g. source ~/venv/bin/activate."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables set in the job; secrets are passed by name only (pass_env) and never written."""
    pass_env: list[str] = field(default_factory=list)
    """Names of variables that the job takes from the submitting shell, such as [HF_TOKEN]."""
    container: ContainerConfig = field(default_factory=ContainerConfig)


@dataclass(kw_only=True)
class DistributedConfig:
    """Parallel training. No key here changes the trained model."""

    kind: DistributedKind = DistributedKind.ddp
    """ddp: each process holds the model; fsdp: each holds a shard of it (torch's FSDP2)."""
    reshard: bool = True
    """fsdp: free gathered weights after the forward pass (ZeRO-3); false keeps them for the backward (ZeRO-2)."""
    replicas: int = bounded(1, ge=1)
    """fsdp: groups of processes that each hold a whole model (hybrid); 1 shards over all processes."""
    cpu_offload: bool = False
    """fsdp: keep the shards, their gradients and the optimizer state in main memory."""
    timeout_minutes: int = bounded(30, ge=1)
    """Minutes that a process waits for the others in one exchange before it stops with an error."""
