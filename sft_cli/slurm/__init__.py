"""A run as a SLURM job: its script, its submission, an array of runs. Works on a login node: no GPU, no torch."""
