"""Read the rank of this process from the environment of torchrun, accelerate, srun or sft's own launcher."""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from sft_cli.errors import Elsewhere, SftError

SLURM_VARIABLES = {
    "RANK": "SLURM_PROCID",
    "WORLD_SIZE": "SLURM_NTASKS",
    "LOCAL_RANK": "SLURM_LOCALID",
    "LOCAL_WORLD_SIZE": "SLURM_NTASKS_PER_NODE",
}
"""torch's variables -> srun's. They are read only where the job script sets ``SFT_RANKS=slurm``, since a shell that
srun opened for one process has them, too."""
RENDEZVOUS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class RankInfo:
    """The rank of a process and the number of processes, in the run and on its node."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes the shared files."""
        return self.rank == 0


def rank_from_env(environment: Mapping[str, str] = os.environ) -> RankInfo:
    """Return the rank of this process; rank 0 of 1 if the environment sets none.

    Raises:
        SftError: The environment sets WORLD_SIZE without the other variables.
    """
    variables = _torch_variables(environment)
    if variables.get("WORLD_SIZE", "1") == "1":
        return RankInfo()
    missing = [name for name in ("RANK", *RENDEZVOUS_VARIABLES) if name not in variables]
    numbers = {
        name: variables[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE") if name in variables
    }
    wrong = [f"{name}={value}" for name, value in numbers.items() if not value.isdecimal()]
    if missing or wrong:
        raise SftError(
            where=f"WORLD_SIZE={variables['WORLD_SIZE']}",
            problem=f"several processes are set up, but these variables are missing: {', '.join(missing)}"
            if missing
            else f"these variables are not numbers: {', '.join(wrong)}",
            fix="start the run with launcher.nproc=N, torchrun, accelerate launch or srun, or unset WORLD_SIZE",
        )
    rank, world_size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    local_world_size = int(variables.get("LOCAL_WORLD_SIZE", world_size))
    return RankInfo(rank, world_size, int(variables.get("LOCAL_RANK", rank % local_world_size)), local_world_size)


def cuda_device_index(info: RankInfo, device_count: int, environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the CUDA device of a process among those that torch sees, or None if there are fewer than processes.

    With ``--gpus-per-task=1`` or ``--gpu-bind`` SLURM shows each task only its own GPU: it is device 0 everywhere.

    Args:
        info: The rank of the process.
        device_count: The CUDA devices that torch sees in this process.
        environment: The environment of the process.
    """
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    bound = environment.get("SLURM_GPUS_PER_TASK") == "1" or (gpus.isdecimal() and int(gpus) >= info.local_world_size)
    if device_count == 1 and bound:
        return 0
    return info.local_rank if info.local_rank < device_count else None


def require_single_process(command: str) -> None:
    """Refuse to run a command in several processes, which would write the same files; only ``train`` is distributed.

    Raises:
        SftError: A launcher has started several processes.
    """
    info = rank_from_env()
    if info.world_size > 1 and info.local_rank:
        raise Elsewhere(2)
    if info.world_size > 1:
        raise SftError(
            where=f"WORLD_SIZE={info.world_size}",
            problem=f"sft {command} runs in one process",
            fix=f"run sft {command} without torchrun, accelerate launch or srun",
        )


def export_torch_env(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables that torch and accelerate read, where srun set its own."""
    environment.update(_torch_variables(environment))


def _torch_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return torch's variables that are set, or srun's values under torch's names."""
    variables = {name: environment[name] for name in (*SLURM_VARIABLES, *RENDEZVOUS_VARIABLES) if name in environment}
    if environment.get("SFT_RANKS") == "slurm":
        variables |= {
            name: environment[slurm_name].partition("(")[0]
            for name, slurm_name in SLURM_VARIABLES.items()
            if slurm_name in environment
        }
    return variables
