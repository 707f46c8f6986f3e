"""A connection's descriptor, which a handler or a library may close by its number, and the kernel then gives away."""

from __future__ import annotations

import os
import socket

import pytest

from pronghorn.connection import socket_facts
from pronghorn.connection.blocking import Connection


@pytest.mark.parametrize("kernel_tells_cookies", [True, False])
@pytest.mark.parametrize("other", ["nothing", "a file", "a socket", "itself"])
def test_whether_a_descriptor_still_leads_to_the_connection(
    other: str, kernel_tells_cookies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel_tells_cookies:
        monkeypatch.setattr(socket_facts, "COOKIE", 0)
    ours, theirs = socket.socketpair()
    with theirs, Connection(ours.family, ours.type, 0, fileno=ours.detach()) as conn:
        conn.begin(1, "", None)
        assert conn.is_own()
        fd = conn.fileno()
        if other == "nothing":
            os.close(fd)
        elif other == "a file":
            with open(os.devnull) as file:
                os.dup2(file.fileno(), fd)
        elif other == "a socket":
            os.dup2(theirs.fileno(), fd)
        else:
            with socket.socket(fileno=os.dup(fd)) as copy:
                os.dup2(copy.fileno(), fd)
        assert conn.is_own() is (other == "itself")
        if other in ("a file", "a socket"):
            os.close(fd)
        if other != "itself":
            conn.detach()
        assert conn.is_own()
