"""Lowerings by name, one file each: an integer model becomes the model file of a runtime."""
