"""Flax networks behind pure functions."""
