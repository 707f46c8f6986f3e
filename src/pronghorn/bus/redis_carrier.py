"""The bus from host to host over Redis or Valkey: the directory lies in Redis, and each host subscribes to one inbox.

Law: what a name's members are is decided by scripts (redis_scripts.py), one round trip each; Redis publishes to inboxes
by itself. There are two connections: one for commands, one that listens. If either is lost both are, and everything is
joined again over new ones. Every BEAT this host says that it lives, and looks after those that do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterable, Iterator
from functools import partial

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from pronghorn.bus.carrier import MOST_UNSENT, NOT_BACK, Away, Host
from pronghorn.bus.redis_pipe import Answer, Forgotten, Pipe
from pronghorn.bus.redis_places import Lost, Place
from pronghorn.bus.redis_scripts import BEAT, BEGIN, CHUNK, CLEAN, DIGEST, END, JOIN, REJOIN, TO_ALL, TO_ONE
from pronghorn.bus.wire import REPLACE

BEATS = 0.5  # seconds between two
LATE = 4.0
"""Seconds after its last beat for which a host that has said nothing is still taken to be there."""
PAUSES = 0.05, 0.1, 0.2, 0.4, 0.8  # seconds, before connecting again
STEADY = 1.0  # seconds after which a connection was a good one, and the next is tried at once
CLEANING = 0.02  # seconds between two chunks of names of the dead
GOODBYE = 1.0  # seconds
NOTED = 10.0
"""Seconds for which it is noted since when a join counts: as long as an `evict` of before it may be under way."""
APART = 0.05
"""Seconds by which this host's idea of Redis' clock may have moved in that time."""
DEAD = "has taken this host for dead"
FAULT = "The connection to Redis was ended by a fault of the bus, which the log has"


class _Session:
    """Two connections, for as long as both hold."""

    def __init__(self, place: Place, member: bytes, commands: AbstractConnection, inbox: AbstractConnection) -> None:
        self._prefix = f"{{{place.prefix}}}:".encode()
        self.member = member
        self.pipe = Pipe(commands)
        self.inbox = inbox
        self._commands = commands
        self.heard = asyncio.get_running_loop().time()
        self.dead = asyncio.Event()  # there are names of dead hosts
        self.running = asyncio.create_task(self.pipe.run())
        self.deaf = asyncio.Event()
        """The inbox is not subscribed to any more."""
        self.useless: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def key(self, kind: bytes, rest: bytes = b"") -> bytes:
        return self._prefix + kind + rest

    def script(self, script: str, keys: tuple[bytes, ...], *rest: bytes) -> asyncio.Future[Answer]:
        parts = (b"EVALSHA", DIGEST[script], b"%d" % len(keys), *keys, self._prefix, *rest)
        return self.pipe.ask(*parts)

    def give_up(self, error: Exception) -> None:
        if not self.useless.done():
            self.useless.set_exception(error)

    async def close(self) -> None:
        for each in (self._commands, self.inbox):
            with contextlib.suppress(RedisError, OSError):
                await each.disconnect(nowait=True)


class RedisCarrier:
    """A `Carrier`. Raises BadBusMessage for a URL that is none."""

    def __init__(self, url: str, host: Host) -> None:
        self._place = Place(url)
        self._other: Place | None = None  # the same with the password before
        self._worked: Place | None = None
        self._host = host
        self._id = host.id.encode()
        self._session: _Session | None = None
        self._joining: dict[bytes, tuple[float, bool]] = {}
        self._asked: dict[bytes, int] = {}  # joins of each name that Redis has not answered
        self._held: dict[bytes, list[float]] = {}  # what evicts such names meanwhile
        self._noted: dict[bytes, tuple[float, float]] = {}  # of late joins: what was asked for, and what counts
        self._up = False
        self._why = f"Redis at {self._place.shown} has not answered yet."
        self._said: set[str] = set()
        self._number = 0
        self._since = float("inf")
        self._before = b""
        self._ahead = time.time() - time.monotonic()
        self._best = float("inf")
        self.dropped = 0

    def now(self) -> float:
        return time.monotonic() + self._ahead

    async def run(self) -> None:
        pauses = iter(PAUSES)
        while True:
            began = time.monotonic()
            try:
                await self._hold()
            except Exception as error:
                self._lose(error)
            if time.monotonic() - self._since > STEADY:
                pauses = iter(PAUSES)
            pause = next(pauses, 1.0) * random.uniform(0.5, 1.0)
            await asyncio.sleep(max(PAUSES[0], began + pause - time.monotonic()))

    async def _hold(self) -> None:
        """Connect, and serve until the connection is lost, which is raised."""
        self._since = float("inf")
        try:
            commands, inbox = await self._place.connect()
        except BaseException:
            if self._other is not None:  # for the next attempt
                self._place, self._other = self._other, self._place
            raise
        self._worked = self._place
        self._number += 1
        session = _Session(self._place, self._id + b".%d" % self._number, commands, inbox)
        tasks: list[asyncio.Future[None]] = [session.running, session.useless]
        try:
            async with asyncio.timeout(self._place.patience):
                await self._begin(session)
            self._joining = {name: (since, alone) for name, since, alone in self._host.here()}
            self._noted.clear()
            self._session = session
            for each in (self._hear, self._beat, self._clean, self._rejoin):
                tasks.append(asyncio.create_task(each(session)))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        except Forgotten:
            await session.running  # raises what that ended by
            raise
        except asyncio.CancelledError:
            await self._say_goodbye(session)
            raise
        finally:
            self._session, self._up = None, False
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:  # the carrier may be cancelled in this moment
                await session.close()

    async def _begin(self, session: _Session) -> None:
        inbox = session.inbox
        channels = [session.key(kind, self._id) for kind in (b"to:", b"evict:")]
        await inbox.send_command("SUBSCRIBE", *channels, check_health=False)
        for _ in channels:
            await inbox.read_response(disable_decoding=True)
        sent = time.monotonic()
        answer = await session.script(BEGIN, (session.key(b"hosts"),), session.member, self._before)
        self._before = session.member
        self._best = float("inf")
        self._set_clock(sent, float(answer))

    def _set_clock(self, sent: float, theirs: float) -> None:
        """Take the instant that Redis tells: the quicker the answer, the less it is off. A quick one counts less and
        less with time, as clocks drift."""
        ours = time.monotonic()
        self._best = max(self._best * 1.01, 1e-5)
        if ours - sent <= self._best:
            self._best = ours - sent
            self._ahead = theirs - (sent + ours) / 2

    def renew(self, url: str) -> None:
        self._other, self._place = self._worked or self._place, Place(url)

    async def retire(self) -> None:
        session = self._session
        if session is None:
            return
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await session.inbox.send_command("UNSUBSCRIBE", check_health=False)
                await session.deaf.wait()

    async def _rejoin(self, session: _Session) -> None:
        """Join all that is here, then be up."""
        while self._joining:
            chunk = [(name, *self._joining.pop(name)) for name in list(_first(self._joining, CHUNK))]
            keys = tuple(session.key(b"n:", name) for name, _, _ in chunk)
            rest = (part for name, since, alone in chunk for part in (name, _exact(since), b"a" if alone else b"s"))
            lost = await session.script(REJOIN, keys, session.member, *rest)
            if lost == -1:
                raise Lost(DEAD)
            asked = {name: since for name, since, _ in chunk}
            for name, before in zip(lost[::2], lost[1::2], strict=True):
                self._host.evict(name, max(float(before), asked[name] + APART))
        self._up = True
        self._since = time.monotonic()
        self._said.clear()
        self._host.up()

    async def _hear(self, session: _Session) -> None:
        data, evict = session.key(b"to:", self._id), session.key(b"evict:", self._id)
        read, loop = session.inbox.read_response, asyncio.get_running_loop()
        while True:
            answer = await read(disable_decoding=True)
            session.heard = loop.time()
            if answer[0] != b"message":
                if answer[0] == b"unsubscribe" and not answer[2]:
                    session.deaf.set()
                continue
            if answer[1] == data:
                self._host.hear(answer[2])
            elif answer[1] == evict:
                self._evict(*answer[2].partition(b" ")[::2])

    def _evict(self, before: bytes, name: bytes) -> None:
        try:
            instant = float(before)
        except ValueError:
            return self._host.not_ours("what is no instant")
        if name in self._asked:  # whether it is later than that is not known yet
            self._held.setdefault(name, []).append(instant)
        else:
            self._let_go(name, instant)

    def _answered(self, name: bytes) -> None:
        self._asked[name] -= 1
        if not self._asked[name]:
            del self._asked[name]
            for before in self._held.pop(name, ()):
                self._let_go(name, before)

    def _let_go(self, name: bytes, before: float) -> None:
        """Evict those who have joined before, as Redis has it: by this host's clock it may have been otherwise."""
        asked, counts = self._noted.get(name, (before, before))
        if counts < before:
            before = max(before, asked + APART)
        elif counts > before:
            before = min(before, asked - APART)
        self._host.evict(name, before)

    def _forget_joins(self) -> None:
        over = self.now() - NOTED
        while self._noted and next(iter(self._noted.values()))[1] < over:
            del self._noted[next(iter(self._noted))]

    async def _beat(self, session: _Session) -> None:
        loop, patience = asyncio.get_running_loop(), self._place.patience
        beat: asyncio.Future[Answer] | None = None
        sent = 0.0
        while True:
            if beat is None:
                sent = time.monotonic()
                beat = session.script(BEAT, (session.key(b"hosts"),), session.member, _exact(LATE))
                beat.add_done_callback(partial(self._set_clock_by, sent))
                await session.inbox.send_command("PING", check_health=False)
            await asyncio.sleep(BEATS)
            self._forget_joins()
            if session.pipe.quiet() > patience or loop.time() - session.heard > patience + BEATS:
                raise TimeoutError
            if beat.done():
                answer = beat.result()
                beat = None
                if not answer:
                    raise Lost(DEAD)
                if answer[1]:
                    session.dead.set()

    def _set_clock_by(self, sent: float, beat: asyncio.Future[Answer]) -> None:
        if not beat.cancelled() and not beat.exception() and beat.result():
            self._set_clock(sent, float(beat.result()[0]))

    async def _clean(self, session: _Session) -> None:
        """Take out the names of the dead, a bit at a time."""
        while True:
            await session.dead.wait()
            while await session.script(CLEAN, (session.key(b"hosts"),), b"%d" % CHUNK):
                await asyncio.sleep(CLEANING)
            session.dead.clear()

    async def _say_goodbye(self, session: _Session) -> None:
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await session.script(END, (session.key(b"hosts"),), session.member)
                while await session.script(CLEAN, (session.key(b"hosts"),), b"%d" % CHUNK):
                    pass

    def _lose(self, error: Exception) -> None:
        ours = not isinstance(error, (RedisError, OSError, Lost))
        self._why = f"{FAULT}: {type(error).__name__}." if ours else self._place.why(error)
        if self._why in self._said:
            return
        self._said.add(self._why)
        self._host.down(self._why)
        if ours:
            asyncio.get_running_loop().call_exception_handler({"message": FAULT, "exception": error})

    def _there(self) -> _Session:
        if self._session is None:
            raise Away(self._why)
        return self._session

    def _ready(self, size: int) -> _Session:
        session = self._there()
        if not self._up:
            raise Away("This host is joining its names again.")
        if session.pipe.unanswered + size > MOST_UNSENT:
            self.dropped += 1
            raise Away(f"{MOST_UNSENT:,} bytes wait for Redis.")
        return session

    async def join(self, name: bytes, since: float, mode: int) -> bool:
        session = self._there()
        if mode == REPLACE:
            self._joining.pop(name, None)
        self._asked[name] = self._asked.get(name, 0) + 1
        try:
            return await self._join(session, name, since, mode)
        finally:
            self._answered(name)

    async def _join(self, session: _Session, name: bytes, since: float, mode: int) -> bool:
        with self._spoken(session):
            key = session.key(b"n:", name)
            answer = session.script(JOIN, (key,), session.member, name, _exact(since), b"%d" % mode)
            try:
                joined = float(await answer)
                if joined == -2:
                    raise Away(NOT_BACK, soon=True)
                if joined < 0:
                    raise Lost(DEAD)
                if joined:
                    self._noted.pop(name, None)
                    self._noted[name] = since, joined
            except (ResponseError, Lost) as error:  # what was not joined is joined over another connection
                session.give_up(error)
                raise
        return bool(joined)

    def leave(self, name: bytes) -> None:
        self._joining.pop(name, None)
        if (session := self._session) is not None:
            members = b"s" + session.member, b"a" + session.member
            session.pipe.tell(b"ZREM", session.key(b"n:", name), *members, vital=True)
            session.pipe.tell(b"SREM", session.key(b"of:", session.member), name)

    async def to_all(self, name: bytes, data: bytes) -> set[str]:
        session = self._ready(len(data))
        with self._spoken(session):
            sent = await session.script(TO_ALL, (session.key(b"n:", name),), session.member, data)
        if sent is None:
            raise Away(NOT_BACK, soon=True)
        return {each.decode() for each in sent}

    async def to_one(self, name: bytes, data: bytes) -> str:
        session = self._ready(len(data))
        with self._spoken(session):
            sent = await session.script(TO_ONE, (session.key(b"n:", name),), session.member, data)
        if sent == b"":
            raise Away(NOT_BACK, soon=True)
        return sent.decode() if sent else ""

    def send(self, host: str, data: bytes) -> None:
        try:
            session = self._ready(len(data))
        except Away:
            return
        session.pipe.tell(b"PUBLISH", session.key(b"to:", host.encode()), data)

    async def missing(self, hosts: Iterable[str]) -> set[str]:
        found = list(hosts)
        session = self._ready(0)
        with self._spoken(session):
            inboxes = (session.key(b"to:", each.encode()) for each in found)
            answer = await session.pipe.ask(b"PUBSUB", b"NUMSUB", *inboxes)
        return {host for host, count in zip(found, answer[1::2], strict=True) if not count}

    @contextlib.contextmanager
    def _spoken(self, session: _Session) -> Iterator[None]:
        """What Redis says instead of doing it is Away."""
        try:
            yield
        except Forgotten as error:
            raise Away("The connection to Redis was lost.", perhaps=error.sent) from None
        except (ResponseError, Lost) as error:
            raise Away(self._place.why(error)) from None


def _exact(number: float) -> bytes:
    return repr(float(number)).encode()


def _first(names: dict[bytes, tuple[float, bool]], most: int) -> Iterator[bytes]:
    for _, name in zip(range(most), names, strict=False):
        yield name
