"""Make the teacher ready: load a local model, or open the client of an endpoint."""

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from sft_cli.config.compose import read_config
from sft_cli.config.redaction import redact_secrets
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto
from sft_cli.config.schema.suites import EvalEngine
from sft_cli.console import say
from sft_cli.errors import SftError
from sft_cli.run_dir import open_run
from sft_cli.synth.session import Teacher


def open_teacher(config: Config) -> AbstractContextManager[Teacher]:
    """Return the teacher of a config, for use in a ``with`` block.

    Raises:
        SftError: It is not named, does not exist, or has no chat template.
    """
    return _served(config) if config.synth.teacher.engine is EvalEngine.openai else _local(config)


@contextmanager
def _served(config: Config) -> Iterator[Teacher]:
    """Yield a teacher at an endpoint."""
    from sft_cli.endpoint.client import EndpointClient
    from sft_cli.endpoint.settings import SettingNames
    from sft_cli.eval.engine.served import EndpointModel, endpoint_settings, served_answers

    teacher = config.synth.teacher
    endpoint, key = teacher.endpoint, "synth.teacher.endpoint"
    if endpoint.model is None:
        raise SftError(where=f"{key}.model", problem="no teacher is named", fix=f"add {key}.model=NAME")
    names = SettingNames(
        owner="teacher",
        missing="synth.teacher.engine=openai",
        url=f"{key}.url",
        model=f"{key}.model",
        timeout=f"{key}.timeout",
        concurrency=f"{key}.concurrency",
        requests_per_minute=f"{key}.requests_per_minute",
        rejected="change the settings of synth.teacher that it does not take",
    )
    client = EndpointClient(endpoint_settings(endpoint, endpoint.model), names)
    answer = served_answers(EndpointModel(client, teacher.max_new_tokens, endpoint.concurrency))
    say(f"teacher   {endpoint.model} at {redact_secrets(endpoint.url or 'api.openai.com')}")
    yield Teacher(endpoint.model, {"served": endpoint.model}, answer)


@contextmanager
def _local(config: Config) -> Iterator[Teacher]:
    """Yield a teacher in this process."""
    from sft_cli.eval.bare_model import check_bare_model, evaluated_bare_model, find_bare_model
    from sft_cli.eval.engine.local import local_answers
    from sft_cli.eval.evaluated import evaluated_run
    from sft_cli.eval.session import load_evaluated, packed_loss_model
    from sft_cli.eval.suite_session import engine_model, engine_settings
    from sft_cli.model.device import choose_compute_setup
    from sft_cli.model.load import load_model_config

    typed = config.synth.teacher.model
    if typed is None:
        fix = "add synth.teacher.model=RUN, a model directory or a hub id; or synth.teacher.engine=openai"
        raise SftError(where="synth.teacher.model", problem="no teacher is named", fix=fix)
    bare = find_bare_model(typed, None)
    if bare is None:
        run = open_run(typed, "sft synth synth.teacher.model=")
        own = _as_teacher(config, read_config(run.config))
        model = evaluated_run(run, own)
    else:
        own = _as_teacher(config, replace(bare.config(), template=config.template))
        check_bare_model(bare, own, "sft synth synth.teacher.model=")
        model = evaluated_bare_model(bare, own, needs_template=True)
    machine = choose_compute_setup(own.trainer, load_model_config(model.architecture), full=model.full)
    weights = load_evaluated(model, own, machine)
    engine = engine_model(model, own, packed_loss_model(weights, model.label, own, machine))
    say(f"teacher   {shlex.quote(typed)}")
    with machine.precision():
        identity = {**model.record(model.label), **engine_settings(model, own)}
        yield Teacher(typed, identity, local_answers(engine))


def _as_teacher(config: Config, own: Config) -> Config:
    """Return the config of a model, with the device and the batches of the teacher."""
    teacher = config.synth.teacher
    tokens = own.speed.tokens_per_micro_batch
    return replace(
        own,
        trainer=replace(own.trainer, device=config.trainer.device),
        speed=replace(own.speed, tokens_per_micro_batch=own.trainer.max_length if isinstance(tokens, Auto) else tokens),
        eval=replace(own.eval, batch_size=teacher.batch_size, max_new_tokens=teacher.max_new_tokens),
    )
