"""What a run would take on machines that are not here: memory, time, traffic."""
