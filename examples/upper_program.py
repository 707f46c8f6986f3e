#!/usr/bin/env python3
"""The upper-case service as a program: the connection is its standard input and output, and nothing here knows it.

    pronghorn serve --exec python3 examples/upper_program.py

Any executable will do, in any language. Who is calling stands in the environment, as under tcpserver.
"""

import os
import sys

print("called from", os.environ.get("TCPREMOTEIP", "a terminal"), file=sys.stderr)
for line in sys.stdin.buffer:
    sys.stdout.buffer.write(line.upper())
    sys.stdout.buffer.flush()  # a client may wait for this line before it sends the next
