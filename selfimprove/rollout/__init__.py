"""From prompts to samples, inside jit."""
