"""The tests: one folder per room, `house` for the project as a whole."""
