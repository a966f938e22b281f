"""The model: loading, quantisation, adapters, packed attention, the loss head, merging."""

import logging

# bitsandbytes warns at import that an optional kernel, fetched from a hub, is not there; nothing here uses it.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
