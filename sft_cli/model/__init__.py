"""The model: loading, quantisation, adapters, packed attention, the loss head, merging."""

import logging

from sft_cli.model.peft_import import import_peft

# bitsandbytes warns at import that an optional kernel, fetched from a hub, is not there; nothing here uses it.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
import_peft()
