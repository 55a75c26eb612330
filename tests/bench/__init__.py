"""Measurements, side by side. `python -m tests.bench [NAME...]` runs them and prints tables."""
