"""Writing and reading configs."""

import yaml
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.config.compose import compose, dump_config, read_config
from sft_cli.config.schema.config import Config, ModelConfig
from sft_cli.config.schema.data import SourceConfig
from sft_cli.config.schema.launcher import LauncherConfig
from sft_cli.config.schema.trainer import TrainerConfig

TEXT = st.one_of(
    st.text(), st.sampled_from(["1e-4", "1", "null", "yes", "24:00:00", "2024-01-01", "${x}", "${", "0x1f", "~"])
)


def test_config_round_trips_through_its_file(tmp_path):
    config = compose(["recipe=lima_full", "data=[lima,alpaca]", "trainer.lr=1e-5", "model.revision=12345e7"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert read_config(tmp_path / "config.yaml") == config
    assert read_config(str(tmp_path / "config.yaml")) == config


def test_file_is_plain_yaml():
    plain = yaml.safe_load(dump_config(compose(["recipe=quickstart"])))
    assert plain["trainer"]["lr"] == 2e-3
    assert plain["adapter"]["kind"] == "lora"
    assert "!!" not in dump_config(compose(["trainer.betas=[0.9,0.95]"]))


@given(TEXT, TEXT, st.dictionaries(TEXT.filter(bool), TEXT), st.floats(1e-300, 1e300))
def test_any_text_and_number_round_trips(tmp_path_factory, path, setup, columns, lr):
    config = Config(
        model=ModelConfig(path=path),
        launcher=LauncherConfig(setup=setup),
        trainer=TrainerConfig(lr=lr),
    )
    config.data.mix["a"] = SourceConfig(columns=columns)
    file = tmp_path_factory.mktemp("saved") / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8", newline="")
    assert read_config(file) == config


def test_config_of_an_earlier_version_is_read(tmp_path):
    """Its config has the key of a suite, which only gave a report its name."""
    (tmp_path / "config.yaml").write_text("eval:\n  suite: heldout\n  max_rows: 3\n")
    assert read_config(tmp_path / "config.yaml").eval.max_rows == 3
