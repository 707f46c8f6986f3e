"""Listeners that are open already: kept by a reload, adopted by an upgrade, never closed by who did not open them."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path

import pytest

from brokers import free_port
from listeners import Open
from pronghorn.errors import AddressInUse, BadSetting, CannotBind
from pronghorn.events import Event, ListenerOpened
from pronghorn.listening.binding import renew
from pronghorn.listening.listener import Listener
from pronghorn.settings import Settings


def handed_on(listener: Listener) -> Listener:
    """The listener as the new program of an upgrade gets it: other numbers for what the kernel has once."""
    record = json.loads(json.dumps(listener.inherited()))
    record["fd"] = os.dup(record["fd"])
    if record["claim"]:
        record["claim"]["lock"] = os.dup(record["claim"]["lock"])
    return Listener.adopt(record)


def queue_of(listener: Listener) -> int:
    with socket.socket(fileno=os.dup(listener.fileno())) as copy:
        info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 28)[0])


# A reload


def test_what_is_open_is_kept_and_what_is_new_is_opened(opened: Open, events: list[Event], tmp_path: Path) -> None:
    path = f"unix:{tmp_path / 's'}"
    before = opened("127.0.0.1:0", path)
    events.clear()
    after = opened("127.0.0.2:0", path, "127.0.0.1:0", keep=before)
    assert [after[2], after[1]] == before
    assert events == [ListenerOpened(after[0].address)]
    assert [each.bind for each in after] == ["127.0.0.2:0", path, "127.0.0.1:0"]
    assert len(opened("127.0.0.1:0", keep=after)) == 1
    assert all(each.fileno() >= 0 for each in after), "who leaves one out closes it"


def test_port_0_twice_is_two_ports_and_stays_so(opened: Open) -> None:
    before = opened(":0", ":0")
    assert opened(":0", ":0", keep=before) == before
    (port,) = {each.address.rpartition(":")[2] for each in opened(":0", keep=before)}
    assert port in before[0].address
    three = opened(":0", ":0", ":0", keep=before)
    assert three[: len(before)] == before
    assert len(three) * 2 == len(before) * 3


def test_an_address_that_is_written_differently_is_kept_too(opened: Open) -> None:
    before = opened("127.0.0.1:0")
    assert opened(before[0].address, keep=before) == before


def test_a_bind_that_fails_changes_nothing(opened: Open, events: list[Event]) -> None:
    before = opened("127.0.0.1:0", backlog=7)
    events.clear()
    with socket.create_server(("127.0.0.2", 0)) as rival:
        port = free_port()
        taken = f"127.0.0.2:{rival.getsockname()[1]}"
        with pytest.raises(AddressInUse):
            opened("127.0.0.1:0", f"127.0.0.3:{port}", taken, keep=before, backlog=9)
        assert before[0].fileno() >= 0
        assert events == []
        if sys.platform == "linux":
            assert queue_of(before[0]) == 7
        socket.create_server(("127.0.0.3", port)).close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the backlog in TCP_INFO")
def test_the_backlog_is_applied_anew_to_what_is_kept_when_it_serves(opened: Open) -> None:
    before = opened("127.0.0.1:0", backlog=7)
    assert queue_of(before[0]) == 7
    kept = opened("127.0.0.1:0", keep=before, backlog=9)
    assert queue_of(before[0]) == 7, "the reload may yet fail"
    renew(kept, Settings(backlog=9))
    assert queue_of(before[0]) == 9


def test_an_address_that_covers_a_kept_one_is_refused(opened: Open) -> None:
    before = opened("127.0.0.1:0")
    port = before[0].address.rpartition(":")[2]
    with pytest.raises(BadSetting):
        opened("127.0.0.1:0", f":{port}", keep=before)


# An upgrade


def test_a_listener_is_handed_on(opened: Open, events: list[Event]) -> None:
    (old,) = opened("127.0.0.1:0")
    events.clear()
    (new,) = opened("127.0.0.1:0", inherited=[handed_on(old)])
    assert (new.address, new.bind, new.family) == (old.address, old.bind, old.family)
    assert events == [ListenerOpened(new.address)]
    assert not os.get_inheritable(new.fileno())
    old.close()
    with socket.create_connection(("127.0.0.1", int(new.address.rpartition(":")[2]))):
        got = new.accept()
        assert got is not None
        os.close(got[0])


def test_a_unix_path_is_handed_on(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "s"
    (old,) = opened(f"unix:{path}")
    new = handed_on(old)
    new.close()
    assert path.exists(), "before it takes over, the new program removes nothing"
    new = handed_on(old)
    new.take_over()
    old.hand_over()
    old.close()
    assert path.exists(), "after it has handed over, the old program removes nothing"
    with pytest.raises(AddressInUse, match="holds the path and its lock"):
        opened(f"unix:{path}")
    new.close()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_lives_as_long_as_one_of_its_holders(opened: Open, tmp_path: Path) -> None:
    (old,) = opened(f"unix:{tmp_path / 's'}")
    new = handed_on(old)
    assert len(old.descriptors()) == len(new.descriptors()) == 2
    old.hand_over()
    old.close()
    assert old.descriptors() == []
    with open(tmp_path / "s.lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    new.take_over()
    new.close()


def test_what_is_handed_on_is_looked_at(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        record = {"fd": file.fileno(), "bind": "127.0.0.1:8000", "name": "", "address": "127.0.0.1:8000", "claim": None}
        with pytest.raises(CannotBind, match="is no socket"):
            Listener.adopt(record)
