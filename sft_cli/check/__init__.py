"""`sft check` and `sft doctor`: what can be found out before a GPU is paid for."""
