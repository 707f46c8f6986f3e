"""A script that serves: pronghorn.serve does what the command does, with the settings as keywords.

    python examples/script.py 127.0.0.1:8000
    pronghorn serve examples/script.py:handler

The call stands under `if __name__`, so that the second command can import the handler without starting the script.
"""

import sys
import time

import pronghorn

started = time.monotonic()


@pronghorn.message(pronghorn.lines)
def handler(line: bytes) -> bytes:
    if line == b"uptime":
        return f"{time.monotonic() - started:.1f} s".encode()
    return line[::-1]


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
    pronghorn.serve(handler, bind=address, model="epoll", workers=2, drain_timeout=5)
    print("stopped in good order")
