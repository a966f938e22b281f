"""From conversations to proven token ids: template, spans, encoding, parity with serving."""
