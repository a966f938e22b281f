"""``sft check`` and ``sft doctor``: checks of a run and of this machine before any GPU time is used."""
