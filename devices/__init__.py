"""Devices: a bundle runs where the profile says, and a measurement comes back."""
