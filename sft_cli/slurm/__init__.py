"""Run jobs on SLURM: job scripts, submission and job arrays. Needs neither a GPU nor torch."""
