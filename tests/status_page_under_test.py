"""A handler for the tests of the status page: it logs what its clients say, and fails when they ask for it."""

from __future__ import annotations

import logging

import pronghorn


@pronghorn.message(pronghorn.lines)
def shout(line: bytes) -> bytes:
    """Answers in upper case."""
    if line.startswith(b"warn "):
        logging.getLogger("mine").warning("%s", line[5:].decode("utf-8", "replace"))
    if line == b"fail":
        raise ValueError("as it was told")
    return line.upper()
