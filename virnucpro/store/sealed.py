"""Text with a checksum, which tells whether it is what was written: a journal's lines, and a run's settings."""

import json
import zlib
from typing import Any


def checked(text: str) -> str:
    """A text behind its checksum."""
    return f"{zlib.crc32(text.encode()):08x} {text}"


def unchecked(line: bytes) -> Any:
    """The JSON behind its checksum; None where they do not agree."""
    checksum, _, text = line.partition(b" ")
    if checksum != f"{zlib.crc32(text):08x}".encode():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def sealed(settings: dict[str, Any]) -> str:
    """Settings as JSON with a checksum."""
    text = json.dumps(settings)
    return json.dumps({"settings": text, "crc32": f"{zlib.crc32(text.encode()):08x}"})


def unsealed(text: bytes) -> dict[str, Any] | None:
    """The settings in what `sealed` made; None where it is damaged."""
    try:
        outer = json.loads(text)
        inner = outer["settings"]
        if outer["crc32"] == f"{zlib.crc32(inner.encode()):08x}" and isinstance(found := json.loads(inner), dict):
            return found
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return None
