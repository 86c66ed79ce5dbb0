"""How long a test waits at most: some ten times what it takes on two cores with nothing beside it."""

PATIENCE = 600
"""Seconds for what takes a minute or less: a guard against waiting for ever, not a measurement."""
