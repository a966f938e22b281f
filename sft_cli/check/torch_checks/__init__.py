"""What a check computes with torch: a small model, the memory of a large one, the devices of this machine."""
