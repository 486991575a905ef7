"""Array mathematics: no model, no configuration, no input or output."""
