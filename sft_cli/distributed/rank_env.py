"""Which process of a run this is, as torchrun, accelerate, srun or our own launcher say it in the environment."""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from sft_cli.errors import Elsewhere, SftError

SLURM = {
    "RANK": "SLURM_PROCID",
    "WORLD_SIZE": "SLURM_NTASKS",
    "LOCAL_RANK": "SLURM_LOCALID",
    "LOCAL_WORLD_SIZE": "SLURM_NTASKS_PER_NODE",
}
"""Our variables, and what srun calls them. They count only where the job script says ``SFT_RANKS=slurm``: a shell that
srun opened for one process has them too."""
MEETING = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Place:
    """A process among those that train one run.

    Attributes:
        rank: Its number.
        size: How many there are.
        local_rank: Its number on its node.
        local_size: How many there are on its node.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0


def place_of(environment: Mapping[str, str] = os.environ) -> Place:
    """Where this process stands; alone where the environment says nothing.

    Raises:
        SftError: The environment names a size without the rest.
    """
    found = _translated(environment)
    if found.get("WORLD_SIZE", "1") == "1":
        return Place()
    missing = [name for name in ("RANK", *MEETING) if name not in found]
    numbers = {name: found[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE") if name in found}
    wrong = [f"{name}={value}" for name, value in numbers.items() if not value.isdecimal()]
    if missing or wrong:
        raise SftError(
            where=f"WORLD_SIZE={found['WORLD_SIZE']}",
            problem=f"the environment of a process among several lacks {', '.join(missing)}"
            if missing
            else f"no numbers: {', '.join(wrong)}",
            fix="start it with launcher.nproc=N, torchrun, accelerate launch or srun, or unset WORLD_SIZE",
        )
    rank, size = int(found["RANK"]), int(found["WORLD_SIZE"])
    local_size = int(found.get("LOCAL_WORLD_SIZE", size))
    return Place(rank, size, int(found.get("LOCAL_RANK", rank % local_size)), local_size)


def refuse_several(command: str) -> None:
    """Refuse to run a command in several processes, which would write the same files; only ``train`` works together.

    Raises:
        SftError: A launcher has started several.
    """
    place = place_of()
    if place.size > 1 and place.local_rank:
        raise Elsewhere(2)
    if place.size > 1:
        raise SftError(
            where=f"WORLD_SIZE={place.size}",
            problem=f"sft {command} runs in one process",
            fix=f"type sft {command} without torchrun, accelerate launch or srun",
        )


def adopt(environment: MutableMapping[str, str] = os.environ) -> None:
    """Give srun's variables the names that torch and accelerate read."""
    environment.update(_translated(environment))


def _translated(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables under their usual names."""
    found = {name: environment[name] for name in (*SLURM, *MEETING) if name in environment}
    if environment.get("SFT_RANKS") == "slurm":
        found |= {
            name: environment[theirs].partition("(")[0] for name, theirs in SLURM.items() if theirs in environment
        }
    return found
