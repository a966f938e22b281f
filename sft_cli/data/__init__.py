"""Turn files into conversations: sources, formats, mix, ledger, and the prepared directory."""
