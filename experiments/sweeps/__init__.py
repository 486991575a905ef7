"""Sweeps: one run under many bindings; here, on SLURM, on Cloud TPUs."""
