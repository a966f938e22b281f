"""From examples to batches: the plan of the steps, bin packing, shared prefixes, collation, prefetching."""
