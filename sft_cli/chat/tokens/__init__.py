"""Token ids: the tokenizer, special tokens, and encoding with caches."""
