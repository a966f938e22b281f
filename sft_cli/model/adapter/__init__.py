"""PEFT adapters, and training of selected base weights."""
