"""What all stages share: artefact schemas and formats, provenance, errors and the command line."""

__version__ = "0.1.0"
