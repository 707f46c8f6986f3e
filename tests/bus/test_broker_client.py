"""A client of a broker when it ends: whoever waits learns of it, and whoever comes then gets a new one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from carrier_in_memory import Broker, InMemory

from launch import wait_for
from pronghorn import bus
from pronghorn.bus.carrier import Host

pytestmark = pytest.mark.timeout(30)


class Silent(InMemory):
    """A carrier over which every message goes to a host that never answers."""

    async def to_one(self, name: bytes, data: bytes) -> str:
        SENT.append(data)
        return "host"

    def send(self, host: str, data: bytes) -> None:
        SENT.append(data)

    async def run(self) -> None:
        if b"fault" in BROKER.names:
            raise KeyError("a fault")
        await super().run()


BROKER = Broker()
SENT: list[bytes] = []


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def carrier(url: str, host: Host) -> Silent:
        return Silent(BROKER, host)

    monkeypatch.setattr("pronghorn.bus.broker_client.carrier_of", carrier)
    monkeypatch.setattr("pronghorn.bus.client.carrier_for", str)  # no package is needed
    yield
    BROKER.names.clear()
    SENT.clear()


def test_whoever_waits_when_a_client_is_closed_learns_of_it() -> None:
    client = bus.connect("redis://127.0.0.1")
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            client.ask("device", b"how", timeout=3600)
        except BaseException as error:
            failed.append(error)

    asking = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for each in asking:
        each.start()
    wait_for(lambda: len(SENT) == 3, "the questions being sent")
    client.close()
    for each in asking:
        each.join(10)
    assert [type(each) for each in failed] == [bus.BusLost] * 3
    assert len(SENT) == 6, "each question, and that nobody waits for its answer"
    assert "has been closed" in str(failed[0])
    with client:
        assert client.publish("device", b"again") == 0, "it has a new connection"
        with pytest.raises(bus.NoAnswer):
            client.ask("device", b"again", timeout=0.1)


def test_a_task_that_is_cancelled_is_cancelled_and_one_that_waits_at_the_end_learns_of_it() -> None:
    async def main() -> None:
        client = bus.aconnect("redis://127.0.0.1")
        gone, stays = (asyncio.ensure_future(client.ask("device", b"how", timeout=3600)) for _ in range(2))
        while len(SENT) < 2:
            await asyncio.sleep(0.005)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        await client.close()
        with pytest.raises(bus.BusLost):
            await asyncio.wait_for(stays, 10)

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_carrier_that_fails_leaves_nobody_waiting_and_is_made_anew() -> None:
    BROKER.names[b"fault"] = {}
    client = bus.connect("redis://127.0.0.1")
    with pytest.raises((bus.BusLost, bus.BusUnavailable)):
        client.publish("device", b"x", timeout=20)
    del BROKER.names[b"fault"]
    with client:
        assert client.publish("device", b"x") == 0


@pytest.mark.parametrize("url", ["redis://", "nats://", "redis://h:99999", "redis://u:p/w@h", "nats://a b"])
def test_a_wrong_url_is_refused_at_once_without_its_password(url: str) -> None:
    for connect in (bus.connect, bus.aconnect):
        with pytest.raises(bus.BadBusMessage, match="The URL of the bus is wrong") as raised:
            connect(url)
        assert "p/w" not in str(raised.value)
