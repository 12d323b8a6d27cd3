"""Rivals side by side in one run: what each bar asks, what was measured, and whether it was met."""
