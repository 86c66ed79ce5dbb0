"""Other implementations of ESM-2, with the same weights and proteins, and tables that compare them."""
