"""Read a size from a model's own configuration."""

from transformers import PretrainedConfig


def config_value(config: PretrainedConfig, name: str) -> int | None:
    """Return a number of the text model's configuration by its common name; None if the family has no such number."""
    text = config.get_text_config()
    return text.to_dict().get(text.attribute_map.get(name, name))
