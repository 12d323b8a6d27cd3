"""Models by name, one file each: Options (pydantic) and build(options, input spec, classes)."""
