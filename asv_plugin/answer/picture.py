"""Write docs/precision.png: the first screen of html/precision.html, as Chromium shows it.

python -m asv_plugin.answer.picture      (make picture, which publishes the page before)
"""

import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

PAGE, PICTURE = Path("html/precision.html"), Path("docs/precision.png")
SIZE = (1280, 800)

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
# Without --disable-background-networking Chromium itself asks for hosts outside
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

KEY = b"Source\0"
"""Of the picture's text chunk, as the PNG specification names it: the page's SHA-256 follows."""

TIMEOUT = 120


def main() -> None:
    """Write the picture; ends with exit code 1 and the reason where that cannot be done."""
    if CHROMIUM is None:
        sys.exit("error: no Chromium was found: install the chromium package, or set CHROMIUM to its path")
    if not PAGE.exists():
        sys.exit(f"error: there is no {PAGE}: run make publish")
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder, "picture.png")
        command = [CHROMIUM, *FLAGS, "--headless", "--hide-scrollbars", f"--window-size={SIZE[0]},{SIZE[1]}"]
        command += [f"--user-data-dir={folder}/profile", f"--screenshot={taken}", PAGE.absolute().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if done.returncode or not taken.exists():
            said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            sys.exit(f"error: {CHROMIUM} wrote no picture: {said[0]}")
        PICTURE.write_bytes(with_source(taken.read_bytes(), PAGE.read_bytes()))


def with_source(png: bytes, page: bytes) -> bytes:
    """The picture with a text chunk that says of which page it is, behind the header (8 + 25 bytes)."""
    content = KEY + hashlib.sha256(page).hexdigest().encode()
    chunk = b"tEXt" + content
    return png[:33] + struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def is_of(png: bytes, page: bytes) -> bool:
    """Whether the picture was taken of this page."""
    return KEY + hashlib.sha256(page).hexdigest().encode() in png


if __name__ == "__main__":
    main()
