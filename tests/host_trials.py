"""The trials of several hosts: restarted one after the other, and cut off.

Law: as in ledger_trials.py: a trial gives a Result, and asserts nothing; `..._of` makes it with a site that is there.
Clients count every end of a connection by what they saw (host_clients.py); what is no loss is named here, and all else
is a fault.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from host_servers import Clients, Server, Site, site, why_not
from ledger_trials import Result, until

PATIENCE = 30.0
GOOD = {"ok", "welcomed", "goodbye", "crossed", "answered"}
"""`crossed`: a device spoke in the moment of the goodbye, which is what draining means; it is told, and no loss."""
CUT = {"silent", "no welcome"}
"""What a device sees whose host, or the way to it, is gone."""


class Load:
    """Clients that come all the time, and devices that stay, at one site."""

    def __init__(self, place: Site, rate: float, devices: int) -> None:
        self.place, self.devices = place, devices
        self.visits, self.stay = place.clients("visits", rate), place.clients("devices", devices)
        self._before: dict[Clients, Counter[str]] = {}

    def begin(self) -> bool:
        """What is judged begins now; whether all devices are there."""
        there = self.all_there()
        self._before = {each: Counter(each.told()["counts"]) for each in (self.visits, self.stay)}
        return there

    def all_there(self) -> bool:
        return until(lambda: self.stay.there() == self.devices, PATIENCE)

    def served_by(self, host: str) -> bool:
        """Whether a client that comes from now on is served there."""
        before = self.visits.told()["by_host"].get(host, 0)
        return until(lambda: self.visits.told()["by_host"].get(host, 0) > before, PATIENCE)

    def judge(self, result: Result, cut: int = 0, lost: set[str] = frozenset(), silent: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Each outcome that is not good is a fault, but for `lost` of clients that come, `silent` of devices, and as
        many resets of devices as the drain deadline has cut."""
        result.expect(self.all_there(), f"{self.stay.there()} of {self.devices} devices are there at the end")
        for who, clients, allowed in (("clients", self.visits, lost), ("devices", self.stay, silent)):
            told = clients.told()
            counts = Counter(told["counts"]) - self._before[clients]
            result.figures[who] = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
            counts["reset"] -= min(counts["reset"], cut * (clients is self.stay))
            bad = {name: count for name, count in counts.items() if count and name not in GOOD | allowed}
            result.expect(not bad, f"{who} lost: {bad}; {told['notes'][-5:]}")


@contextmanager
def loaded(folder: Path, rate: float, devices: int, **settings: Any) -> Iterator[Load]:
    """A site with clients."""
    with site(folder, **settings) as place:
        load = Load(place, rate, devices)
        load.all_there()
        yield load


def rolling(folder: Path, rounds: int, rate: float, devices: int, how: str, **settings: Any) -> Result:
    """Every host restarted, one after the other, by `ctl stop`, or by `ctl drain` and then a stop, while clients come
    all the time and devices stay: nobody is refused or reset whom the drain deadline has not cut."""
    result = Result(f"R23 rolling restart by {how}", why_not())
    if not result.skipped:
        with loaded(folder, rate, devices, **settings) as load:
            rolling_of(result, load, rounds, how)
    return result


def rolling_of(result: Result, load: Load, rounds: int, how: str) -> None:
    result.expect(load.begin(), "not all devices are there")
    began, cut = time.monotonic(), 0
    for _ in range(rounds):
        for name, server in load.place.servers.items():
            cut += restarted(result, load.place, server, how)
            result.expect(until(lambda name=name: taken(load, name), PATIENCE), f"{name} is not back")  # type: ignore[misc]
            result.expect(load.served_by(name), f"no client comes to {name} after its restart")
    result.figures["restarts"] = str(rounds * len(load.place.servers))
    result.figures["took"] = f"{time.monotonic() - began:.1f} s"
    result.figures["cut by the drain deadline"] = str(cut)
    load.judge(result, cut)


def taken(load: Load, name: str) -> bool:
    """Whether every balancer sends clients there."""
    return all(each.takes(name) for each in load.place.balancers)


def restarted(result: Result, place: Site, server: Server, how: str) -> int:
    """Stop it in this way, and start it; how many connections its drain deadline has cut."""
    name = server.host.name
    if how == "drain":
        server.ctl("drain")
        out = not any(each.takes(name) for each in place.balancers)
        result.expect(out, f"a balancer sends clients to {name}, which is drained")
    told = server.ctl("stop")
    result.expect(server.now.exit(PATIENCE) == told["status"], f"{name}: {server.now.log[-300:]}")
    result.expect(told["status"] in (0, 6), f"{name} ended with {told}")
    server.start()
    return int(told["cut"])


def cut_off(folder: Path, seconds: float, rate: float, devices: int, **settings: Any) -> Result:
    """One host cut off from everybody by nftables for a while: the balancer takes it out, its devices come back
    elsewhere, and afterwards it serves again by itself."""
    result = Result("R24 a host cut off", why_not())
    if not result.skipped:
        with loaded(folder, rate, devices, **settings) as load:
            cut_off_of(result, load, seconds)
    return result


def cut_off_of(result: Result, load: Load, seconds: float) -> None:
    """The host that has most devices."""
    result.expect(load.begin(), "not all devices are there")
    ((name, had),) = Counter(load.stay.told()["by_host"]).most_common(1)
    host, began = load.place.servers[name].host, time.monotonic()
    result.figures["devices of the host"] = str(had)
    host.cut()
    out = seconds_until(lambda: not any(each.takes(name) for each in load.place.balancers))
    away = seconds_until(lambda: there_without(load, name))
    until(lambda: time.monotonic() > began + seconds, seconds)
    host.mend()
    back = seconds_until(lambda: taken(load, name))
    for words, value in (("taken out", out), ("devices elsewhere", away), ("back", back)):
        result.figures[f"{words} after"] = "never" if value is None else f"{value:.2f} s"
        result.expect(value is not None, f"{words}: never")
    result.expect(load.served_by(name), "no client comes to the host after the cut")
    # who was at the host, or on the way to it, in the moment of the cut has lost that connection, and knows it
    load.judge(result, 0, {"timeout", "eof", "reset"}, CUT)


def there_without(load: Load, name: str) -> bool:
    by_host = load.stay.told()["by_host"]
    return by_host.get(name, 0) == 0 and sum(by_host.values()) == load.devices


def seconds_until(condition: Callable[[], object]) -> float | None:
    """How long it took; None if it never came true."""
    began = time.monotonic()
    return time.monotonic() - began if until(condition, PATIENCE) else None
