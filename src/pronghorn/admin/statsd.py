"""StatsD: what has changed since the last time, as datagrams, once in ten seconds and at the end.

Law: nothing here waits for anybody: a name that does not resolve, a server that is not there and a full buffer cost one
round, which the next one makes up for. What was told is kept in a file in memory that outlives this process, so that a
counter is told once over its restarts and upgrades. Labels are tags, in the form of DogStatsD.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from pronghorn.admin.catalogue import COUNTER
from pronghorn.admin.families import Buckets, Family, Labels
from pronghorn.admin.gathering import Gatherer
from pronghorn.settings.metrics import statsd_place

EVERY = 10.0  # seconds
MOST_BYTES = 1432  # of a datagram: one that passes every network whole
RESOLVED = 60.0  # seconds for which an address is good
LONGEST_STATE = 8 << 20  # bytes
UNFIT = re.compile(r"[|#,\s]+")  # what a tag cannot have
Told = dict[str, float]
"""What was told of each counter, by its name and tags."""


class Target(NamedTuple):
    """Where StatsD is told, and how names begin and which tags there are."""

    address: str
    prefix: str = ""
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, address: str, prefix: str, tags: str) -> Target:
        begin = f"{prefix.rstrip('.')}." if prefix else ""
        return cls(address, begin, tuple(UNFIT.sub("_", each) for each in tags.split(",") if each))


def lines(families: Iterable[Family], told: Told, target: Target) -> Iterator[str]:
    """The lines of one round; `told` is what was told before, and is brought up to date."""
    for family in families:
        name = target.prefix + family.name.replace("pronghorn_", "pronghorn.", 1).removesuffix("_total")
        for labels, value in family.samples:
            tags = _tags(labels, target.tags)
            if isinstance(value, Buckets):
                yield from _timers(name.removesuffix("_seconds"), tags, family, value, told)
            elif family.kind == COUNTER:
                if delta := _news(f"{name}{tags}", value, told):
                    yield f"{name}:{_number(delta)}|c{tags}"
            else:
                if value < 0:
                    yield f"{name}:0|g{tags}"  # a sign would be a change
                yield f"{name}:{_number(value)}|g{tags}"


def _timers(name: str, tags: str, family: Family, value: Buckets, told: Told) -> Iterator[str]:
    """One value for each bucket that has more than before, its bound, with the count as a sampling rate."""
    in_seconds = family.name.endswith("_seconds")
    for bound, count in value.each:
        if new := _news(f"{name}{tags}|{bound!r}", count, told):
            most = bound if math.isfinite(bound) else value.largest
            rate = f"|@{1 / new:.10g}" if new != 1 else ""
            yield f"{name}:{_number(most * 1000 if in_seconds else most)}|{'ms' if in_seconds else 'h'}{rate}{tags}"


def _news(key: str, value: float, told: Told) -> float:
    """What there is more than was told; a counter that has begun anew is told whole."""
    before = told.get(key, 0.0)
    told[key] = value
    return value - before if value >= before else value


def _tags(labels: Labels, own: tuple[str, ...]) -> str:
    tags = [*own, *(f"{name}:{UNFIT.sub('_', value)}" for name, value in labels if value)]
    return f"|#{','.join(tags)}" if tags else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else f"{value:.10g}"


def datagrams(lines: Iterable[str]) -> Iterator[bytes]:
    """As many lines as fit in each; a line that is longer alone is left out."""
    held = b""
    for line in lines:
        raw = line.encode()
        if len(raw) > MOST_BYTES:
            continue
        if held and len(held) + 1 + len(raw) > MOST_BYTES:
            yield held
            held = b""
        held = held + b"\n" + raw if held else raw
    if held:
        yield held


class State:
    """What was told, in a file in memory that the supervisor keeps."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> Told:
        try:
            return msgspec.json.decode(os.pread(self._fd, LONGEST_STATE, 0).rstrip(b"\0") or b"{}", type=Told)
        except (OSError, msgspec.MsgspecError):
            return {}

    def write(self, told: Told) -> None:
        raw = msgspec.json.encode(told)
        os.ftruncate(self._fd, len(raw))
        os.pwrite(self._fd, raw, 0)


class StatsD:
    """Tells one StatsD server. `say` is called with a level and words for the log when that begins to fail, and when it
    goes on."""

    def __init__(self, target: Target, gatherer: Gatherer, state: State, say: Callable[[str, str], object]) -> None:
        self._target, self._gatherer, self._state, self._say = target, gatherer, state, say
        self._sock: socket.socket | None = None
        self._good_until = 0.0
        self._fails = False

    async def run(self) -> None:
        """Round after round, until it is cancelled; then `tell` once more."""
        try:
            await self._connected()
        except OSError as error:
            self._note(error.strerror or str(error))
        while True:
            await asyncio.sleep(EVERY)
            await self.tell()

    async def tell(self) -> bool:
        """One round; whether somebody may have heard of it."""
        families = await self._gatherer.families()
        told = self._state.read()
        try:
            sock = await self._connected()
            for each in datagrams(lines(families, told, self._target)):
                self._send(sock, each)
        except OSError as error:
            self._good_until = 0.0  # nobody is there, or now elsewhere: the next round tells what this one did not
            self._note(error.strerror or str(error))
            return False
        self._state.write(told)
        self._note("")
        return True

    def _note(self, why: str) -> None:
        """Whether a round has failed, and why: the log is told of the first, and of the first that does not."""
        if bool(why) == self._fails:
            return
        self._fails = bool(why)
        if why:
            self._say("warning", f"cannot tell StatsD at {self._target.address} (--statsd): {why}; it goes on trying")
        else:
            self._say("info", f"tells StatsD at {self._target.address} again")

    def _send(self, sock: socket.socket, data: bytes) -> None:
        """A refusal is that of an earlier datagram, and told once."""
        try:
            sock.send(data)
        except ConnectionRefusedError:
            sock.send(data)

    async def _connected(self) -> socket.socket:
        now = time.monotonic()
        if self._sock is None or now >= self._good_until:
            if self._sock is not None:
                self._sock.close()
                self._sock = None
            self._sock, self._good_until = await self._connect(), now + RESOLVED
        return self._sock

    async def _connect(self) -> socket.socket:
        place = statsd_place(self._target.address)
        if isinstance(place, str):
            found: list[tuple[int, Any]] = [(socket.AF_UNIX, place)]
        else:
            resolved = await asyncio.get_running_loop().getaddrinfo(*place, type=socket.SOCK_DGRAM)
            found = [(family, address) for family, _, _, _, address in resolved]
        family, address = found[0]
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock
