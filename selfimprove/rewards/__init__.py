"""From samples to numbers: verifiers, combiners, labels."""
