"""Which precision should I run ESM-2 in? Recorded values as tables, for the terminal and the Precision page."""
