"""Attacks by real processes on runs, checkpoints and files: `python -m tests.attack`."""
