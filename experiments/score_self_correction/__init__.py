"""SCoRe against its baselines on the default task; see README.md."""
