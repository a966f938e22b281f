"""What is trained: adapters of PEFT, or some of the base's own weights."""
