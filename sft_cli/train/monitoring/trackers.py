"""Trackers of a run's metrics: TensorBoard, Weights & Biases, MLflow and Trackio.

The last three are written through accelerate's trackers. All files stay in the run directory unless the user's own
environment names a server. Secrets, source code, console output and machine data are not sent, and the telemetry of the
libraries is switched off.
"""

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from netrc import NetrcParseError, netrc
from shlex import quote
from typing import Any, Protocol

from sft_cli.config.redaction import redact_secrets, redact_values
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.tracking import TrackerName
from sft_cli.config.validate import to_plain
from sft_cli.console import say
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.utils.mappings import flatten

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}
"""Variables that switch off the telemetry of the trackers' libraries."""
WANDB_HOST = "api.wandb.ai"


class Tracker(Protocol):
    """A tracker that is open."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a step."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class Trackers:
    """The trackers of a run. One that fails is closed with a warning; the run continues."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a step in all of them."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(tracker.log, values, step))

    def close(self) -> None:
        """Close all of them."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.close)
        self._trackers.clear()

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever a library or a network raises, the training continues
            self._trackers.pop(name, None)
            say(f"warning: {name} gets no more values ({_first_line(error)}); metrics.jsonl has them all")


def tracker_problems(config: Config) -> Iterator[SftError]:
    """Yield an error for each tracker whose library is not installed."""
    for name in dict.fromkeys(config.tracking.report_to):
        if name is not TrackerName.tensorboard and importlib.util.find_spec(name.value) is None:
            yield SftError(
                where="tracking.report_to",
                problem=f"{name.value} is not installed",
                fix=f"pip install 'sft-cli[{name.value}]'",
            )


def open_trackers(config: Config, directory: RunDir, first_step: int) -> Trackers:
    """Open the trackers of ``tracking.report_to`` and print where their files are.

    Args:
        config: The settings of the run; they are stored with every address and token masked.
        directory: The run directory.
        first_step: Number of steps before this session: a resumed run continues its earlier record.

    Raises:
        SftError: A tracker cannot be opened.
    """
    os.environ.update({name: value for name, value in TELEMETRY_OFF.items() if name not in os.environ})
    openers = {
        TrackerName.tensorboard: partial(_open_tensorboard, directory, first_step),
        TrackerName.wandb: partial(_open_wandb, config, directory),
        TrackerName.mlflow: partial(_open_mlflow, config, directory),
        TrackerName.trackio: partial(_open_trackio, config, directory),
    }
    opened: dict[str, Tracker] = {}
    for name in dict.fromkeys(config.tracking.report_to):
        try:
            tracker = openers[name]()
        except Exception as error:
            Trackers(opened).close()
            problem = f"{name.value} cannot be opened: {_first_line(error)}"
            others = [other.value for other in config.tracking.report_to if other is not name]
            fix = f"tracking.report_to=[{','.join(others)}] trains without it"
            raise SftError(where="tracking.report_to", problem=problem, fix=fix) from error
        if tracker is not None:
            opened[name.value] = tracker
    return Trackers(opened)


class _Accelerate:
    """A tracker of accelerate; what its library prints while it starts and ends is dropped."""

    def __init__(self, tracker: Any, values: Mapping[str, Any]) -> None:
        tracker.main_process_only = False  # only the main process opens trackers
        self._tracker = tracker
        with _silent():
            tracker.start()
            tracker.store_init_configuration(values)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a step."""
        self._tracker.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is pending."""
        with _silent():
            self._tracker.finish()


class _Trackio(_Accelerate):
    """Trackio, whose own ``finish`` also forgets the run, which the end of the process would report again."""

    def close(self) -> None:
        """Write what is pending."""
        import trackio

        with _silent():
            trackio.finish()


class _TensorBoard:
    """The event files of TensorBoard."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


def _open_tensorboard(directory: RunDir, first_step: int) -> Tracker | None:
    """Return the writer, or None where tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    say(f"tracker   tensorboard --logdir {quote(str(directory.tensorboard))} shows the loss during training")
    threading.excepthook = partial(_ignore_tensorboard_thread, threading.excepthook)
    return _TensorBoard(SummaryWriter(str(directory.tensorboard), purge_step=first_step + 1))


def _open_wandb(config: Config, directory: RunDir) -> Tracker:
    """Open Weights & Biases: offline unless the user is logged in or ``WANDB_MODE`` is set."""
    import wandb
    from accelerate.tracking import WandBTracker

    mode: Any = os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline")
    settings = wandb.Settings(
        console="off", save_code=False, disable_git=True, silent=True, x_disable_stats=True, x_disable_meta=True,
        x_disable_machine_info=True, x_save_requirements=False, mode=mode,
    )  # fmt: skip
    tracker = WandBTracker(
        config.tracking.project, name=_name(config, directory), id=_run_id(directory), resume="allow",
        dir=str(directory.path), settings=settings,
    )  # fmt: skip
    opened = _Accelerate(tracker, _settings(config))
    files = quote(str(directory.path / "wandb"))
    say(
        f"tracker   wandb sync {files}/offline-run-* uploads the values"
        if mode == "offline"
        else f"tracker   wandb: {mode}"
    )
    return opened


def _open_mlflow(config: Config, directory: RunDir) -> Tracker:
    """Open MLflow: a database in the run directory unless ``MLFLOW_TRACKING_URI`` names a server."""
    own = directory.path.resolve() / "mlflow.db"
    uri = os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{own}")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with _silent():
        from accelerate.tracking import MLflowTracker

        mlflow: Any = import_module("mlflow")  # not in the dev extra: 700 MB with what it needs

        mlflow.set_tracking_uri(uri)
        found = _mlflow_run(mlflow, config, _run_id(directory))
    tracker = MLflowTracker(
        config.tracking.project, logging_dir=(directory.path.resolve() / "mlflow").as_uri(), run_id=found,
        run_name=_name(config, directory), tags={"sft.id": _run_id(directory)},
    )  # fmt: skip
    opened = _Accelerate(tracker, {} if found else _settings(config))  # parameters of a run cannot be changed
    say(f"tracker   mlflow ui --backend-store-uri {quote(redact_secrets(uri))} shows the values")
    return opened


def _mlflow_run(mlflow: Any, config: Config, run_id: str) -> str | None:
    """Return the id of the run that an earlier session of this run directory began, if there is one."""
    experiment = mlflow.get_experiment_by_name(config.tracking.project)
    if experiment is None:
        return None
    runs = mlflow.tracking.MlflowClient().search_runs([experiment.experiment_id], f"tags.`sft.id` = '{run_id}'")
    return runs[0].info.run_id if runs else None


def _open_trackio(config: Config, directory: RunDir) -> Tracker:
    """Open Trackio: a database in the run directory unless ``TRACKIO_DIR`` names another."""
    place = os.environ.setdefault("TRACKIO_DIR", str(directory.path.resolve() / "trackio"))
    with _silent():
        from accelerate.tracking import TrackioTracker
    tracker = TrackioTracker(
        config.tracking.project, name=_name(config, directory), resume="allow", embed=False, auto_log_gpu=False,
        auto_log_cpu=False,
    )  # fmt: skip
    opened = _Accelerate(tracker, _settings(config))
    say(
        f"tracker   TRACKIO_DIR={quote(place)} trackio show --project {quote(config.tracking.project)} shows the values"
    )
    return opened


def _name(config: Config, directory: RunDir) -> str:
    return config.tracking.name or directory.path.resolve().name


def _run_id(directory: RunDir) -> str:
    """Return an id that every session of a run has in common."""
    return hashlib.sha256(str(directory.path.resolve()).encode()).hexdigest()[:16]


def _settings(config: Config) -> dict[str, Any]:
    """Return the settings by dotted key, as plain values without secrets."""
    values = flatten(redact_values(to_plain(config)))
    return {key: value if isinstance(value, int | float) else redact_secrets(str(value)) for key, value in values}


def _has_wandb_key() -> bool:
    """Return whether Weights & Biases finds a key: in its variable, or where ``wandb login`` keeps it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators(WANDB_HOST) is not None
    except (OSError, NetrcParseError):
        return False


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop what a library prints inside the block."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _first_line(error: Exception) -> str:
    return redact_secrets((str(error).strip() or type(error).__name__).splitlines()[0])


def _ignore_tensorboard_thread(
    previous_hook: Callable[[threading.ExceptHookArgs], Any], error: threading.ExceptHookArgs
) -> None:
    """Handle an error in a thread; ignore those of TensorBoard, whose writer raises the same error at the next value.

    It is a ``threading.excepthook`` once ``previous_hook`` is bound.
    """
    if not type(error.thread).__module__.startswith("tensorboard."):
        previous_hook(error)
