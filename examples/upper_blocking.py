"""The upper-case service as a function that blocks: the oldest way, and the easiest to read.

    pronghorn serve examples/upper_blocking.py:handler

It needs a flow of control of its own: iterative, fork, prefork, thread, pool or gevent. `conn` is a plain socket.
"""

import socket


def handler(conn: socket.socket) -> None:
    while data := conn.recv(4096):
        conn.sendall(data.upper())
