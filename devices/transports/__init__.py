"""Transports: one file each, found by name; each names its class as TRANSPORT."""
