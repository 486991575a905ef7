"""What a run would take on chips that are not here: memory, time, traffic."""
