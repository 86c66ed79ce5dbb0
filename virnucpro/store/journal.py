"""Text with a checksum, which tells whether it is what was written: a journal's lines, and a run's settings."""

import json
import zlib
from typing import Any


def line_of(value: Any) -> bytes:
    """A line of a journal: JSON behind its CRC-32. It begins with a line end, as a crash can leave half a line."""
    text = json.dumps(value).encode()
    return b"\n%08x %s\n" % (zlib.crc32(text), text)


def value_of(line: bytes) -> Any:
    """What a line says; None where it is not as `line_of` made it."""
    checksum, _, text = line.partition(b" ")
    return decoded(text) if checksum == b"%08x" % zlib.crc32(text) else None


def sealed(settings: dict[str, Any]) -> str:
    """Settings as JSON with a checksum."""
    text = json.dumps(settings)
    return json.dumps({"settings": text, "crc32": f"{zlib.crc32(text.encode()):08x}"})


def unsealed(text: bytes) -> dict[str, Any] | None:
    """The settings in what `sealed` made; None where it is damaged."""
    outer = decoded(text)
    inner = outer.get("settings") if isinstance(outer, dict) else None
    if not isinstance(inner, str) or outer.get("crc32") != f"{zlib.crc32(inner.encode(errors='replace')):08x}":
        return None
    settings = decoded(inner)
    return settings if isinstance(settings, dict) else None


def decoded(text: bytes | str) -> Any:
    """JSON's value; None for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
