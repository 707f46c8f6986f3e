"""`worker`: which worker of which server this process is, in numbers for ids, ports and names of files.

Law: set once by the worker, before its lifespan is entered, and a global of the process: all of its threads, and the
processes that are forked from it, have it. While the handler's module is imported it is not there yet, since the probe
imports the module too, and is no worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pronghorn.errors import NotInWorker


class WorkerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, or one child of it."""

    number: int
    """The worker's slot, from 1 to the number of workers. A worker that is replaced leaves it to its successor; while
    an old worker lets go, as after a reload, the successor has the same number at the same time."""
    generation: int
    """1 for the workers of the first start; each reload and each upgrade that succeeds has a higher one. In one
    generation a worker that is worn out and its successor have the same number for a while."""
    unique: int
    """From 1 to 1023, which are ten bits: no other worker of this server has it as long as this worker lives, whatever
    generation it is of; a later worker may have it again. The children of a worker have it too."""
    server: str
    """The server's name: `--name`, or the first address that it listened at when it was started."""
    pid: int
    """The worker's process id; in a child of the fork model, its parent's."""
    child: int = 0
    """In a child of the fork model: from 1 to `--max-children`, and no other child of this worker has it as long as
    this child lives. 0 in a worker."""


_facts: WorkerFacts | None = None
_child: Callable[[], int] = int


def worker() -> WorkerFacts:
    """The worker that this code runs in, from its lifespan on: in handlers of every style, under every model, and in
    threads. Raises NotInWorker elsewhere, and while the handler's module is imported.
    """
    if _facts is None:
        raise NotInWorker
    place = _child()
    return _facts if not place else msgspec.structs.replace(_facts, child=place)


class BusPlace(msgspec.Struct, frozen=True, kw_only=True):
    """How a process reaches the hub of the bus, and what its connections are owed."""

    join: Callable[..., None]
    """Has a connection join a name: see AnyConnection.join, and connection/groups.py."""
    connect: Callable[[], Any]
    """A new connection (a socket) to the hub. Raises OSError."""
    longest: int
    """Bytes of a payload."""
    most_unsent: int
    """Bytes that wait for a connection that does not read."""
    drops_oldest: bool
    """Beyond that the oldest are dropped, and the connection is not ended."""
    slow: Callable[[Any, bool, bool], None]
    """Called with a connection that does not read what the bus has for it: whether it is closed, and not one message
    dropped; and whether that is its first time. From any thread."""


bus: BusPlace | None = None
"""Where the bus is, in a worker of a server that has one."""
metrics_store: Callable[[], Any] | None = None
"""What makes the memory in which a handler's own metrics stand (metrics.py), in a worker."""


def become(facts: WorkerFacts, place: BusPlace | None = None) -> None:
    """This process is that worker from now on, and its bus is there."""
    global _facts, bus
    _facts, bus = facts, place


def tell_children_apart(place: Callable[[], int]) -> None:
    """`place` says which child this process is, from 1 on; 0 if it is none."""
    global _child
    _child = place


def variables() -> dict[str, str]:
    """The same for a program, in its environment; empty outside of a worker."""
    if _facts is None:
        return {}
    names = ("number", "generation", "unique", "server")
    return {f"WORKER_{name.upper()}": str(getattr(_facts, name)) for name in names}
