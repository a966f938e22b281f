"""A CUDA device for a CPU build of torch. ``README.md`` in this directory says what it proves and what it cannot."""
