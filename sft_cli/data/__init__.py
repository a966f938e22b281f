"""From files to conversations: sources, formats, mix, ledger, and the prepared directory."""
