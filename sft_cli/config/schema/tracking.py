"""Schema of ``tracking`` and ``notify``: where the metrics of a run go besides its directory. Standard library only."""

from dataclasses import dataclass, field
from enum import Enum


class TrackerName(str, Enum):
    """A tracker of experiments."""

    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"
    trackio = "trackio"


class NotifyEvent(str, Enum):
    """What happened to a run."""

    finished = "finished"
    failed = "failed"
    stopped = "stopped"
    guard = "guard"
    spike = "spike"


@dataclass(kw_only=True)
class TrackingConfig:
    """Trackers that get the metrics of a run; metrics.jsonl has them in any case."""

    report_to: list[TrackerName] = field(default_factory=lambda: [TrackerName.tensorboard])
    """tensorboard (where it is installed), wandb, mlflow, trackio; [] for none. Their files are in the run
    directory."""
    project: str = "sft"
    """Project (MLflow: experiment) of the tracker."""
    name: str | None = None
    """Name of the run in the tracker; null takes that of the run directory."""


@dataclass(kw_only=True)
class NotifyConfig:
    """Messages about a run to a webhook."""

    url: str | None = None
    """Address that gets a JSON message by POST; one that holds a secret belongs into SFT_NOTIFY_URL instead."""
    events: list[NotifyEvent] = field(default_factory=lambda: list(NotifyEvent))
    """Events that are sent: finished, failed, stopped (a signal), guard (trainer.retention), spike (of the loss)."""
