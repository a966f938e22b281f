"""sft_cli: config-driven supervised fine-tuning of language models."""

__version__ = "0.1.0"
