"""Datasets by name, one file each: Options (pydantic) and load(options) -> Dataset."""
