"""Reward models of a known truth, and what optimising against them does."""
