"""From protein strings to tokens."""
