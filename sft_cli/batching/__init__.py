"""Batches of examples: the plan of steps, bin packing, shared prefixes, collation and prefetching."""
