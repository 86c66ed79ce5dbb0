"""Measured figures of README.md and docs/: blocks between two markers, which `make readme` writes."""


class CannotWrite(Exception):
    """Why a block cannot be written, and what to do."""
