"""What is measured on held-out problems, and how it is reported."""
