"""Training methods by name, one file each."""
