"""Is HEAD worse than BASE? Two commits in paired rounds: `make ab`."""
