"""``sft train --resume RUN trainer.epochs=N``: a longer run equals one that was planned so long."""

import pytest
import torch
from safetensors.torch import load_file

from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.run_list import summarize_run


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    (file,) = run.checkpoints.glob(f"step-{summarize_run(run).step}/trained.safetensors")
    return load_file(file)


def losses(lines: list[dict]) -> list[tuple[float, float]]:
    return [(line["loss"], line["lr"]) for line in lines]


def same(first: RunDir, second: RunDir) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], value) for key, value in other.items())


CONSTANT = ("trainer.schedule=constant", "adapter.dropout=0.1")


@pytest.mark.every_change
def test_a_finished_constant_run_trains_further_as_if_planned_so_long(runs, metrics, capsys):
    planned = runs.start("planned", *CONSTANT, "trainer.epochs=3")
    runs.start("r", *CONSTANT, "trainer.epochs=1")
    capsys.readouterr()
    runs.resume("r")
    assert f"sft train --resume {runs.directory / 'r'} trainer.epochs=2  # trains longer" in capsys.readouterr().out

    longer = runs.resume("r", "trainer.epochs=3")

    assert "length    12 steps instead of 4\n" in capsys.readouterr().out
    assert losses(metrics(longer)) == losses(metrics(planned))
    evaluated = [[line["loss"] for line in metrics(run, eval=True)] for run in (longer, planned)]
    assert evaluated[0] == evaluated[1]
    assert len(evaluated[0]) == 3
    assert same(longer, planned)
    assert longer.read_json(longer.end) == planned.read_json(planned.end)
    exported = [load_file(run.adapter / "adapter_model.safetensors") for run in (longer, planned)]
    assert all(torch.equal(exported[0][key], value) for key, value in exported[1].items())
    assert [path.name for path in longer.path.glob(".adapter*")] == []


def test_the_warm_up_keeps_its_steps(runs, metrics):
    """2 of 4 steps; half of the longer run would be 4, and would lower the rate in the middle of the run."""
    planned = runs.start("planned", *CONSTANT, "trainer.epochs=2", "trainer.warmup_ratio=0.25")
    runs.start("r", *CONSTANT, "trainer.epochs=1", "trainer.warmup_ratio=0.5")
    longer = runs.resume("r", "trainer.epochs=2")
    assert losses(metrics(longer)) == losses(metrics(planned))
    assert same(longer, planned)
    again = runs.resume("r", "trainer.epochs=3")
    assert [line["lr"] for line in metrics(again)[2:]] == [1e-2] * 10


WSD = ("trainer.schedule=wsd", "trainer.decay_ratio=0.5", "trainer.save_every=1", "trainer.keep_checkpoints=9")


@pytest.mark.parametrize("stopped", [True, False])
def test_a_wsd_run_goes_on_from_before_its_decay(runs, metrics, stop_during_step, capsys, stopped):
    """The decay takes steps 3 and 4. A run that stopped after step 2 goes on there; a finished one goes back there."""
    planned = runs.start("planned", *WSD, "trainer.epochs=2")
    if stopped:
        stop_during_step(2)
        with pytest.raises(SystemExit):
            runs.start("r", *WSD, "trainer.epochs=1")
    else:
        runs.start("r", *WSD, "trainer.epochs=1")
    capsys.readouterr()
    longer = runs.resume("r", "trainer.epochs=2")
    repeated = "steps 4 to 4 are trained again" if not stopped else "length    8 steps instead of 4"
    assert repeated in capsys.readouterr().out
    assert losses(metrics(longer)) == losses(metrics(planned))
    assert same(longer, planned)


def test_a_wsd_run_without_a_checkpoint_before_its_decay_is_refused(runs):
    run = runs.start("r", *WSD, "trainer.epochs=1", "trainer.save_every=4", "trainer.eval_every=4")
    config = run.config.read_text()
    with pytest.raises(SftError) as refused:
        runs.resume("r", "trainer.epochs=2")
    assert "no checkpoint is from before the decay" in refused.value.problem
    assert refused.value.fix.startswith(
        f"sft train recipe={run.config} adapter.start_from={run.path} run_dir={run.path}-2"
    )
    assert run.config.read_text() == config
    assert summarize_run(run).state == "finished"


@pytest.mark.every_change
def test_a_cosine_run_is_refused_with_the_command_of_a_new_run(runs, stop_during_step):
    run = runs.start("r", "trainer.epochs=1")
    path = run.path
    with pytest.raises(SftError) as refused:
        runs.resume("r", "trainer.epochs=2")
    assert str(refused.value) == (
        f"{path}: the length of the run cannot change, the learning rates of trainer.schedule=cosine depend on it:"
        " trainer.epochs was 1, is now 2\n"
        f"  fix: a new run that starts from this one: sft train recipe={run.config} adapter.start_from={path}"
        f" run_dir={path}-2 trainer.epochs=2"
    )
    stop_during_step(2)
    with pytest.raises(SystemExit):
        runs.start("s", "trainer.epochs=1")
    with pytest.raises(SftError) as stopped:
        runs.resume("s", "trainer.max_steps=3")
    assert f"sft stop {runs.directory / 's'} --export  # ends it now" in stopped.value.fix


def test_a_length_that_changes_nothing_is_refused(runs):
    run = runs.start("r", *CONSTANT, "trainer.epochs=1", "trainer.max_steps=4")
    with pytest.raises(
        SftError, match=r"trainer.epochs has no effect on this run, which stops after trainer.max_steps=4"
    ):
        runs.resume("r", "trainer.epochs=2")
    with pytest.raises(SftError, match=r"trainer.max_steps=3 plans 3 steps, and the run has done 4"):
        runs.resume("r", "trainer.max_steps=3")
    with pytest.raises(SftError, match="the run is finished, all its steps are done") as refused:
        runs.resume("r", "trainer.eval_every=3")
    assert f"sft train --resume {run.path} trainer.max_steps=8 trainer.eval_every=3" in refused.value.fix


def test_an_extension_that_stops_is_unfinished_and_keeps_the_earlier_adapter(runs, stop_during_step):
    run = runs.start("r", *CONSTANT, "trainer.epochs=1")
    before = load_file(run.adapter / "adapter_model.safetensors")
    stop_during_step(6)
    with pytest.raises(SystemExit):
        runs.resume("r", "trainer.epochs=2")
    assert summarize_run(run).state == "interrupted"
    kept = load_file(run.adapter / "adapter_model.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in before.items())
    runs.resume("r")
    assert summarize_run(run).state == "finished"
    assert summarize_run(run).step == 8
