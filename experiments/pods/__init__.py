"""Paper-scale runs, compiled for machines that are not here."""
