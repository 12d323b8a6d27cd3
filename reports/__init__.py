"""Reports: measurements become what people and release gates read."""
