"""The upper-case service as a message function: bytes in, bytes out, and no socket in sight.

    pronghorn serve examples/upper_message.py:handler

It runs under every model. The framing says where a message ends: here, at the end of a line.
"""

import pronghorn


@pronghorn.message(pronghorn.lines)
def handler(line: bytes) -> bytes:
    return line.upper()
