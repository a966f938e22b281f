"""The model: loading, quantization, adapters, packed attention, and the loss."""

import logging

from sft_cli.model.peft_import import import_peft

# bitsandbytes warns at import that an optional kernel from the hub is missing; nothing here uses it.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
import_peft()
