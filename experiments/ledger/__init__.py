"""Every algorithm on the same base models, tasks and budgets."""
