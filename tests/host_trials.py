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


GONE_IS_CUT = {
    "GET /readyz": "GET /livez",
    "default-server send-proxy-v2": "default-server on-marked-down shutdown-sessions\n    default-server send-proxy-v2",
}
"""The change of HAProxy's configuration by which it ends the sessions of a host that is gone (docs/deploy.md)."""


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


def cut_off_of(result: Result, load: Load, seconds: float, most: float = 2.0) -> None:
    """The host that has most devices; with a broker all devices answer by the bus `most` seconds after it is back."""
    result.expect(load.begin(), "not all devices are there")
    ((name, had),) = Counter(load.stay.told()["by_host"]).most_common(1)
    host, began = load.place.servers[name].host, time.monotonic()
    result.figures["devices of the host"] = str(had)
    load.stay.told("silence 1.5")
    host.cut()
    out = seconds_until(lambda: not any(each.takes(name) for each in load.place.balancers))
    away = seconds_until(lambda: there_without(load, name))
    until(lambda: time.monotonic() > began + seconds, seconds)
    host.mend()
    back = seconds_until(lambda: taken(load, name))
    for words, value in (("taken out", out), ("devices elsewhere", away), ("back", back)):
        result.figures[f"{words} after"] = "never" if value is None else f"{value:.2f} s"
        result.expect(value is not None, f"{words}: never")
    if load.place.broker:
        joined_again(result, load, load.place.asker(0.01, load.devices), most)
    result.expect(load.served_by(name), "no client comes to the host after the cut")
    # who was at the host, or on the way to it, in the moment of the cut has lost that connection, and knows it
    load.stay.told("silence 30")
    load.judge(result, 0, {"timeout", "eof", "reset"}, CUT)


def cut_from_broker(folder: Path, broker: str, seconds: float, devices: int, **settings: Any) -> Result:
    result = Result(f"R24 a host cut off from {broker}", why_not(broker))
    if not result.skipped:
        with loaded(folder, 50, devices, broker=broker, **settings) as load:
            cut_from_broker_of(result, load, seconds)
    return result


def there_without(load: Load, name: str) -> bool:
    by_host = load.stay.told()["by_host"]
    return by_host.get(name, 0) == 0 and sum(by_host.values()) == load.devices


def cut_from_broker_of(result: Result, load: Load, seconds: float, most: float = 2.0) -> None:
    """The host that has most devices loses the way to the broker, and nothing else: its devices stay, others answer,
    and `most` seconds after the end of the cut it answers for all of its own again."""
    result.expect(load.begin(), "not all devices are there")
    asker = load.place.asker(0.01, load.devices)
    result.expect(until(lambda: answering(load, asker) == load.devices, PATIENCE), "not all devices answer at first")
    ((name, had),) = Counter(load.stay.told()["by_host"]).most_common(1)
    host, began = load.place.servers[name].host, time.monotonic()
    assert load.place.broker
    host.cut(load.place.broker.host)
    until(lambda: time.monotonic() > began + seconds, seconds)
    until(lambda: answering(load, asker) >= load.devices - had, PATIENCE)
    meanwhile = answering(load, asker)
    result.expect(meanwhile >= (load.devices - had) / 2, f"{meanwhile} devices answered during the cut")
    host.mend()
    joined_again(result, load, asker, most)
    result.figures["devices of the host"] = str(had)
    result.figures["answered during the cut"] = f"{meanwhile} of {load.devices}"
    load.judge(result)


def joined_again(result: Result, load: Load, asker: Clients, most: float) -> None:
    """All devices answer by the bus, each for itself, after so many seconds at most."""
    again = seconds_until(lambda: answering(load, asker) == load.devices)
    result.figures["all joined again after"] = "never" if again is None else f"{again:.2f} s"
    servers = load.place.servers.values()
    alone = until(lambda: sum(each.joined() for each in servers) == load.devices, PATIENCE)
    result.expect(alone, f"names of {load.devices} devices: {[each.joined() for each in servers]} are held")
    fault = f"{answering(load, asker)} of {load.devices} devices answer by the bus after {again} s: {asker.told('all')}"
    result.expect(again is not None and again <= most, fault)


def answering(load: Load, asker: Clients) -> int:
    """How many devices answer, each for itself."""
    counts = asker.told("all")["counts"]
    assert "wrong" not in counts, counts
    return int(counts.get("right", 0))


def commands(
    folder: Path, broker: str, devices: int, rate: float, seconds: float, balancers: int = 1, **settings: Any
) -> Result:
    """Devices spread over three hosts, and so many questions a second to random ones from outside: each is answered,
    by the right device."""
    result = Result(f"R25 commands over {broker}", why_not(broker))
    if not result.skipped:
        with site(folder, broker=broker, balancers=balancers, **settings) as place:
            stay = place.clients("devices", devices)
            commands_of(result, place, stay, devices, rate, seconds)
            by_host = stay.told()["by_host"]
            spread = min(by_host.get(name, 0) for name in place.servers) > devices / len(place.servers) / 2
            result.expect(spread, f"the devices are not spread: {by_host}")
    return result


def commands_of(result: Result, place: Site, stay: Clients, devices: int, rate: float, seconds: float) -> None:
    began = time.monotonic()
    there = until(lambda: stay.there() == devices, 4 * PATIENCE)
    result.figures["devices there after"] = f"{time.monotonic() - began:.1f} s"
    result.expect(there, f"{stay.there()} of {devices} devices are there")
    used = [place.servers[name] for name, count in stay.told()["by_host"].items() if count]
    up = until(lambda: all("The bus reaches other hosts" in each.now.log for each in used), PATIENCE)
    result.expect(up, "a server has not reached the broker")
    asker, before = place.asker(rate, devices), place.work()
    until(lambda: asker.told()["counts"], PATIENCE)
    began = time.monotonic()
    until(lambda: time.monotonic() >= began + seconds, seconds)
    until(lambda: asker.told()["counts"].get("right", 0) >= 0.8 * rate * seconds, PATIENCE)
    result.figures["questions a second"] = f"{sum(asker.told()['counts'].values()) / (time.monotonic() - began):,.0f}"
    told, spent = asker.told(), place.work() - before
    answers = max(1, sum(told["counts"].values()))
    result.figures["processor for a question, µs"] = ", ".join(
        f"{name} {value / answers * 1e6:.0f}" for name, value in sorted(spent.items())
    )
    of_devices = stay.told()
    result.figures["devices by host"] = ", ".join(f"{name} {count:,}" for name, count in of_devices["by_host"].items())
    asked(result, told, rate * seconds)
    lost = {name: count for name, count in of_devices["counts"].items() if name not in {"welcomed", "answered"}}
    result.expect(not lost, f"devices lost: {lost}; {of_devices['notes'][:5]}")


def asked(result: Result, told: dict[str, Any], wanted: float) -> None:
    """All questions but the last ones, which are under way, were answered rightly."""
    counts = Counter(told["counts"])
    result.figures["questions"] = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    result.figures["answered within"] = ", ".join(
        f"{words} {value * 1000:.1f} ms" for words, value in [*told["times"].items(), ("slowest", told["slowest"])]
    )
    result.expect(counts["right"] >= 0.8 * wanted, f"{counts['right']:,} answers of about {wanted:,.0f}")
    bad = {name: count for name, count in counts.items() if name != "right"}
    result.expect(not bad, f"questions: {bad}; {told['notes'][:5]}")


def seconds_until(condition: Callable[[], object]) -> float | None:
    """How long it took; None if it never came true."""
    began = time.monotonic()
    return time.monotonic() - began if until(condition, PATIENCE) else None
