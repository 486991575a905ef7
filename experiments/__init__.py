"""Experiments: what was claimed, and the command that shows it again."""
