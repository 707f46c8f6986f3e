"""A protocol on a flow of control that leaves at the drain, but not before it has answered what it was asked."""

from __future__ import annotations

import socket
import threading

import pytest

from launch import wait_for
from pronghorn.connection import driver
from pronghorn.connection.blocking import Connection
from pronghorn.handlers.protocols import Protocol
from pronghorn.system.drain import Drain


class Leaving(Protocol):
    def draining(self) -> bool:
        return False


def test_one_that_leaves_is_closed_once_it_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [True]
    monkeypatch.setattr(driver, "awaits_answer", lambda number: asked[0])
    ours, theirs = socket.socketpair()
    with theirs, Connection(ours.family, ours.type, 0, fileno=ours.detach()) as conn:
        conn.begin(1, "", drain := Drain(60.0))
        flow = threading.Thread(target=driver.drive, args=(Leaving(), conn), kwargs={"hears_drain": True}, daemon=True)
        flow.start()
        wait_for(lambda: conn.hears_drain, "the conversation")
        theirs.sendall(b"a first word")
        drain.begin("the test")
        wait_for(lambda: not conn.hears_drain, "the drain is told")
        assert flow.is_alive()
        asked[0] = False
        flow.join(20)
        assert not flow.is_alive()
