"""A carrier whose broker is an object of this process: the hosts of a test reach each other without any network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from pronghorn.bus.carrier import Away, Host
from pronghorn.bus.wire import REFUSE, REPLACE


class Broker:
    """Which hosts have members of which names, since when, and whether alone."""

    def __init__(self) -> None:
        self.up = True
        self.hosts: dict[str, Host] = {}
        self.gone: set[str] = set()
        """Hosts that are not there at the moment."""
        self.names: dict[bytes, dict[str, tuple[float, bool]]] = {}

    def away(self) -> None:
        self.up = False
        for each in self.hosts.values():
            each.down("the broker of this test is away")

    def back(self) -> None:
        self.up = True
        self.names.clear()
        for each in self.hosts.values():
            for name, since, alone in each.here():
                self.enter(each, name, since, REPLACE if alone else 0)
            each.up()

    def enter(self, host: Host, name: bytes, since: float, mode: int) -> None:
        others = self.names.setdefault(name, {})
        if any(alone and when > since for each, (when, alone) in others.items() if each != host.id):
            host.evict(name, since + 1e-6)
            return
        if mode == REPLACE:
            for each in [each for each, (when, _) in others.items() if each != host.id and when <= since]:
                del others[each]
                self.hosts[each].evict(name, since)
        others[host.id] = since, mode != 0


class InMemory:
    """See carrier.Carrier."""

    dropped = 0

    def __init__(self, broker: Broker, host: Host) -> None:
        self.broker, self.host = broker, host
        broker.hosts[host.id] = host

    async def run(self) -> None:
        self.host.up()
        await asyncio.get_running_loop().create_future()

    def renew(self, url: str) -> None:
        """There is no password."""

    async def retire(self) -> None:
        """Nothing is on its way here."""

    def now(self) -> float:
        return time.monotonic() + 1000.0

    def check(self) -> None:
        if not self.broker.up:
            raise Away("the broker of this test is away")

    def check_there(self, hosts: set[str]) -> None:
        if hosts and hosts <= self.broker.gone:
            raise Away("the host is not there at the moment", soon=True)

    async def join(self, name: bytes, since: float, mode: int) -> bool:
        self.check()
        if mode == REFUSE and set(self.broker.names.get(name, ())) - {self.host.id}:
            return False
        self.broker.enter(self.host, name, since, mode)
        return True

    def leave(self, name: bytes) -> None:
        self.broker.names.get(name, {}).pop(self.host.id, None)

    async def to_all(self, name: bytes, data: bytes) -> set[str]:
        self.check()
        hosts = set(self.broker.names.get(name, ())) - {self.host.id}
        self.check_there(hosts)
        for each in hosts:
            self.send(each, data)
        return hosts

    async def to_one(self, name: bytes, data: bytes) -> str:
        self.check()
        members = self.broker.names.get(name)
        if not members:
            return ""
        self.check_there(set(members))
        host = max(members, key=lambda each: members[each][0])
        self.send(host, data)
        return host

    async def missing(self, hosts: Iterable[str]) -> set[str]:
        self.check()
        return set(hosts) - (self.broker.hosts.keys() - self.broker.gone)

    def send(self, host: str, data: bytes) -> None:
        if host in self.broker.hosts and self.broker.up:
            asyncio.get_running_loop().call_soon(self.broker.hosts[host].hear, data)
