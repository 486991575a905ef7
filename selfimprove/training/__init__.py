"""The step, the loop, and what keeps a run alive."""
