"""Conversations to token ids with verified loss masks: template, spans, encoding, parity with serving."""
