"""The slots of an algorithm, and the maths that only one paper needs."""
