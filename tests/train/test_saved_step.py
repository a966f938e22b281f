"""A saved step exported as a run directory: its weights are those of the checkpoint, and commands accept it."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from sft_cli.errors import SftError
from sft_cli.train.checkpoints.saved_step import open_run_at_step


@pytest.mark.every_change("words0")
@pytest.mark.parametrize(
    "words", [[], ["adapter=none"], ["trainer.average=ema"], ["adapter=pissa", "adapter.alpha=16"]]
)
def test_the_last_saved_step_equals_the_exported_result(runs, words):
    """A new model with the checkpoint's weights equals the result of the run, bit for bit."""
    done = runs.start("r", *words, "trainer.max_steps=3", "trainer.save_every=1", "trainer.keep_best=false")
    exported_run = open_run_at_step(str(done.path), 3, "sft eval").path
    assert exported_run == done.path / "steps/step-3"
    (own,) = list(done.result.glob("*.safetensors"))
    exported, expected = load_file(exported_run / done.result.name / own.name), load_file(own)
    assert exported.keys() == expected.keys()
    assert all(exported[name].equal(expected[name]) for name in expected)
    same = {file.name for file in done.result.iterdir()}
    assert {file.name for file in (exported_run / done.result.name).iterdir()} == same
    earlier = open_run_at_step(str(done.path), 2, "sft eval").path
    assert not all(
        load_file(f"{earlier}/{done.result.name}/{own.name}")[name].equal(expected[name]) for name in expected
    )
    lines = [json.loads(line) for line in (done.path / "steps/step-2/metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 2


def test_a_missing_or_damaged_step_is_an_error(runs):
    done = runs.start("r", "trainer.max_steps=3", "trainer.save_every=1", "trainer.keep_best=false")
    with pytest.raises(SftError) as missing:
        open_run_at_step(str(done.path), 9, "sft eval")
    assert str(missing.value) == (
        f"--step 9: {done.path} has no checkpoint of that step\n  fix: --step 3 (saved: 2, 3)"
    )
    (done.checkpoints / "step-3/trained.safetensors").write_bytes(b"")
    with pytest.raises(SftError) as broken:
        open_run_at_step(str(done.path), 3, "sft eval")
    assert str(broken.value) == (
        f"{done.checkpoints}/step-3: the checkpoint is damaged (trained.safetensors does not match its sha256)\n"
        "  fix: --step 2"
    )
    assert not (done.path / "steps").exists()
    shutil.rmtree(done.adapter)
    with pytest.raises(SftError, match=r"; or use the newest saved step: --step 3$"):
        _ = done.result
