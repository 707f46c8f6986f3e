"""The carrier over NATS, with real nats-servers."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from carrier_trials import (
    PATIENCE,
    TRIALS,
    Double,
    Party,
    a_host_ends,
    all_and_one,
    alone_at_once,
    large_data,
    order,
    reached,
    run,
    until,
)

import brokers
from brokers import Broker
from pronghorn.bus.carrier import MOST_UNSENT, Away
from pronghorn.bus.carriers import carrier_of
from pronghorn.bus.errors import BadBusMessage
from pronghorn.bus.wire import REPLACE

Trial = Callable[[Party], Awaitable[None]]
trials = pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.__name__)
prefixes = (f"t{number}" for number in itertools.count())
PASSWORD = "s3cret,@/"


nats_presence = pytest.importorskip("pronghorn.bus.nats_presence", reason="nats-py is not installed")


def url(*servers: Broker, user: str = "", options: str = "") -> str:
    """A URL of these servers, with a prefix that no other test has."""
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
    return f"nats://{user}{hosts}?prefix={next(prefixes)}{options}"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    broker = brokers.nats()
    with brokers.running(broker):
        yield broker


@trials
def test_what_every_carrier_does(broker: Broker, trial: Trial) -> None:
    run(url(broker), trial)


def test_a_host_that_retires_is_sent_nothing_more_and_says_of_itself_nothing_more(broker: Broker) -> None:
    async def trial(party: Party) -> None:
        one, old = [await party.host() for _ in range(2)]
        await old.join(b"device", REPLACE)
        assert await one.carrier.to_one(b"device", b"1")
        client = old.carrier._mail.connection._client  # type: ignore[attr-defined]
        transport, written = client._transport, list[bytes]()
        write, write_lines = transport.write, transport.writelines
        transport.write = lambda data: (written.append(data), write(data))
        transport.writelines = lambda lines: (written.extend(lines), write_lines(lines))
        await old.carrier.retire()
        commands = [each.split()[0] for each in b"".join(written).splitlines() if each[:5] in (b"UNSUB", b"PING")]
        assert b"PING" in commands[commands.index(b"UNSUB") :], "whose answer says that nothing is sent any more"
        settled = one.carrier._settled  # type: ignore[attr-defined]

        async def settle() -> None:
            """When `one` has looked for all hosts, and does not know yet what the server says of them."""
            old.carrier._presence.tick(time.monotonic() + 1.5)  # type: ignore[attr-defined]
            for _ in range(2):
                await client.flush()
            await settled()

        one.carrier._settled = settle  # type: ignore[attr-defined]
        with pytest.raises(Away, match="may be back"):
            await one.carrier.to_one(b"device", b"2")

    run(url(broker), trial)


class Spread(Party):
    """Hosts that take the servers of a cluster in turn."""

    settling = 0.2

    def stranger(self, url: str = "") -> Double:
        hosts, _, options = self.url.removeprefix("nats://").partition("?")
        servers = hosts.split(",")
        return super().stranger(url or f"nats://{servers[len(self.hosts) % len(servers)]}?{options}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Broker]]:
    servers = brokers.nats_cluster()
    with brokers.running(*servers):
        yield servers


@pytest.mark.slow
@pytest.mark.parametrize("trial", [all_and_one, order, alone_at_once, a_host_ends], ids=lambda trial: trial.__name__)
def test_the_same_at_different_servers_of_a_cluster(cluster: list[Broker], trial: Trial) -> None:
    run(url(*cluster), trial, Spread)


@pytest.mark.slow
def test_a_host_goes_to_another_server_of_the_cluster() -> None:
    servers = brokers.nats_cluster()

    async def trial(party: Party) -> None:
        # Each is told of one server, and hears of the other.
        one, two = [await party.host(f"nats://127.0.0.1:{each.port}") for each in servers]
        await one.join(b"device", REPLACE)
        await reached(two, b"device")
        servers[0].kill()
        await until(lambda: one.downs)
        await until(lambda: one.ups == 2)
        await reached(two, b"device")

    with brokers.running(*servers):
        run("", trial)


def test_a_server_with_small_messages(tmp_path: Path) -> None:
    (tmp_path / "small.conf").write_text("max_payload: 4096\n")
    broker = brokers.nats("--config", str(tmp_path / "small.conf"))
    with brokers.running(broker):
        run(url(broker), large_data)


@pytest.mark.slow
def test_everything_is_joined_again_when_the_server_is_back() -> None:
    broker = brokers.nats()

    async def trial(party: Party) -> None:
        one, two = [await party.host() for _ in range(2)]
        for number in range(0, 2000, 100):
            await asyncio.gather(*(one.join(b"device:%d" % each, REPLACE) for each in range(number, number + 100)))
        await two.join(b"room")
        await one.join(b"room")
        broker.kill()
        await until(lambda: one.downs and two.downs)
        for call in (
            two.carrier.to_all(b"room", b""),
            two.carrier.to_one(b"device:1", b""),
            two.join(b"device:1", REPLACE),
        ):
            with pytest.raises(Away, match=r"^The NATS server at 127\.0\.0\.1:\d+ [a-z ]+"):
                await call
        two.carrier.send(one.id, b"lost")
        broker.start()
        began = time.monotonic()
        await until(lambda: one.ups == two.ups == 2)
        for number in (0, 777, 1999):
            await reached(two, b"device:%d" % number)
        print(f"back after {time.monotonic() - began:.2f} s")
        await until(lambda: one.evicted == [b"device:1"])  # which has joined the other host meanwhile
        while await one.carrier.to_all(b"room", b"all") != {two.id} or await two.carrier.to_all(b"room", b"") != {
            one.id
        }:
            await asyncio.sleep(0.01)
        assert b"lost" not in one.heard

    with brokers.running(broker):
        run(url(broker), trial)


@pytest.mark.slow
def test_a_server_that_hangs_is_noticed_and_what_waits_for_it_is_bounded() -> None:
    broker = brokers.nats()

    async def trial(party: Party) -> None:
        one, two = [await party.host() for _ in range(2)]
        await one.join(b"room")
        broker.signal(signal.SIGSTOP)
        sent = [asyncio.ensure_future(two.carrier.to_one(b"room", b"")) for _ in range(3)]
        for _ in range(400):
            two.carrier.send(one.id, bytes(100_000))
        assert 400 - MOST_UNSENT / 100_000 - 100 < two.carrier.dropped < 400
        await until(lambda: one.downs and two.downs)
        assert all(isinstance(each, Away) for each in await asyncio.gather(*sent, return_exceptions=True))
        broker.signal(signal.SIGCONT)
        await until(lambda: one.ups == two.ups == 2)
        await reached(two, b"room")
        assert two.carrier.dropped > 100

    with brokers.running(broker):
        run(url(broker), trial)


@pytest.mark.slow
def test_a_host_that_is_cut_off_is_taken_for_gone_and_found_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_presence, "GONE_AFTER", 2.0)

    async def trial(party: Party) -> None:
        wire = Wire(broker.port)
        await wire.open()
        one, two = await party.host(), await party.host(party.url.replace(str(broker.port), str(wire.port)))
        await one.join(b"room")
        await two.join(b"room")
        await two.join(b"device", REPLACE)
        wire.passing.clear()
        assert await one.carrier.to_all(b"room", b"") == {two.id}
        while await one.carrier.to_all(b"room", b""):
            await asyncio.sleep(0.05)
        assert await one.carrier.to_one(b"room", b"mine")
        await one.join(b"device", REPLACE)  # it comes back at the host that is reached, and is the later one
        await until(lambda: two.downs)
        wire.passing.set()
        await until(lambda: two.ups == 2)
        await until(lambda: two.evicted == [b"device"])
        while await one.carrier.to_all(b"room", b"") != {two.id}:
            await asyncio.sleep(0.01)
        await wire.close()

    run(url(broker), trial)


class Wire:
    """A way to the server on which nothing passes while `passing` is not set, and nothing is closed."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.passing = asyncio.Event()
        self.passing.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._copy(source, sink))
            self._tasks.add(task)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self.passing.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=PATIENCE)


@pytest.mark.slow
def test_a_host_that_dies_without_a_word(broker: Broker) -> None:
    async def trial(party: Party) -> None:
        one, two, three = [await party.host() for _ in range(3)]
        for host in (one, two):
            await host.join(b"room")
        assert await three.carrier.to_one(b"room", b"known")
        two.carrier._presence.goodbye = lambda: None  # type: ignore[attr-defined]
        await two.end()
        while b"to the other" not in one.heard:  # what goes to the dead one before the server knows is lost
            assert await three.carrier.to_one(b"room", b"to the other")
            await asyncio.sleep(0.01)
        while await one.carrier.to_all(b"room", b""):
            await asyncio.sleep(0.01)

    run(url(broker), trial)


async def published(broker: Broker, *messages: tuple[str, bytes]) -> None:
    """A program that is none of the bus has published this, and the server has it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    writer.write(b'CONNECT {"verbose":false}\r\n')
    for subject, data in messages:
        writer.write(b"PUB %s %d\r\n%s\r\n" % (subject.encode(), len(data), data))
    writer.write(b"PING\r\n")
    while (await reader.readline()).strip() != b"PONG":
        pass
    writer.close()


STRANGE = [
    ("host.host0.in", b"nonsense"),
    ("host.host0.in", b"O"),
    ("host.host0.in", b"P\x05\x01"),
    ("host.host0.in", b"R\xc1"),
    ("host.host0.in", b"R" + msgspec.msgpack.encode([b"room", "host1", 2, ["host1"], [float("nan"), False]])),
    ("host.host0.in", b"R" + msgspec.msgpack.encode([b"room", "a.b", 2, [], [1.0, False]])),
    ("host.host0.everything", b"?"),
    ("host.host0.٣", b"?"),
    ("name.room", b"J\x90"),
    ("name.room", b"L\x01"),
    ("hosts", b"Bnot a host"),
]


def test_what_other_programs_send_is_told_and_harms_nothing(broker: Broker) -> None:
    async def trial(party: Party) -> None:
        one, two = [await party.host() for _ in range(2)]
        await one.join(b"room")
        prefix = party.url.partition("prefix=")[2]
        for subject, data in STRANGE:
            told = len(one.strange)
            await published(broker, (f"{prefix}.{subject}", data))
            await until(lambda told=told: len(one.strange) > told)  # type: ignore[misc]
        await reached(two, b"room")
        assert not one.downs and one.ups == 1

    run(url(broker), trial)


def test_a_fault_of_ours_is_told_with_its_place_and_the_bus_goes_on(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async def trial(party: Party) -> None:
        one, two = [await party.host() for _ in range(2)]
        await one.join(b"room")
        one.hear = lambda data: int("a fault")  # type: ignore[assignment, method-assign, return-value]
        await reached(two, b"room")
        await until(lambda: one.downs)
        assert one.downs == ["A message was not understood by a fault of the bus, which the log has: ValueError."]
        del one.hear
        await until(lambda: one.ups == 2)
        await reached(two, b"room")

    run(url(broker), trial)
    assert "invalid literal for int() with base 10: 'a fault'" in caplog.text


@pytest.mark.parametrize(
    "user, said",
    [
        (f"u:wrong{'%2C'}@", "does not admit this user"),
        ("wrongtoken@", "does not admit this user"),
        ("narrow:n@", "forbids a subject that the bus needs: permissions violation for"),
    ],
)
def test_a_server_that_says_no_is_tried_again_and_no_password_is_shown(tmp_path: Path, user: str, said: str) -> None:
    users = '{user: "u", password: "%s"}, {user: "narrow", password: "n", permissions: {publish: "x", subscribe: "x"}}'
    config = tmp_path / "nats.conf"
    config.write_text("authorization: {users: [%s]}\n" % (users % PASSWORD))
    broker = brokers.nats("--config", str(config))

    async def trial(party: Party) -> None:
        host = party.stranger()
        await until(lambda: any(said in each for each in host.downs))
        assert "wrong," not in "".join(host.downs) and "wrongtoken" not in "".join(host.downs)
        with pytest.raises(Away, match="NATS server"):
            await host.carrier.to_all(b"room", b"")
        broker.kill()
        broker.command = broker.command[:-2]
        ups = host.ups
        broker.start()
        await until(lambda: host.ups > ups)

    with brokers.running(broker):
        run(url(broker, user=user), trial)


def test_the_rights_that_the_page_gives_a_user_are_enough(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "bus.md").read_text()
    block = page[page.index("    authorization {") :].partition("\n\n")[0]
    (tmp_path / "nats.conf").write_text(re.sub(r'password: "[^"]*"', f'password: "{PASSWORD}"', block))
    broker = brokers.nats("--config", str(tmp_path / "nats.conf"))
    where = f"nats://pronghorn:s3cret%2C%40%2F@127.0.0.1:{broker.port}"

    async def trial(party: Party) -> None:
        await all_and_one(party)
        stranger = party.stranger(where + "?prefix=another")
        await until(lambda: stranger.downs)
        assert "forbids a subject that the bus needs" in stranger.downs[0]

    with brokers.running(broker):
        run(where, trial)


def test_a_password_with_any_letters_is_taken() -> None:
    broker = brokers.nats("--user", "u", "--pass", PASSWORD)

    async def trial(party: Party) -> None:
        await party.host()
        assert not party.hosts[0].downs

    with brokers.running(broker):
        run(url(broker, user="u:s3cret%2C%40%2F@"), trial)


@pytest.mark.slow
def test_tls_and_never_a_password_without_it(tmp_path: Path, broker: Broker) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    pem = str(tmp_path / "server.pem")
    secured = brokers.nats("--tls", "--tlscert", pem, "--tlskey", pem, "--user", "u", "--pass", "p")

    async def trial(party: Party) -> None:
        one = await party.host()
        await one.join(b"room")
        assert await one.carrier.to_one(b"room", b"x")
        stranger = party.stranger(f"nats://u:p@127.0.0.1:{secured.port}")  # with the authorities of the system
        await until(lambda: stranger.downs)
        assert "TLS with the NATS server" in stranger.downs[0] and "CERTIFICATE_VERIFY_FAILED" in stranger.downs[0]
        open_one = party.stranger(f"tls://u:p@127.0.0.1:{broker.port}")
        await until(lambda: open_one.downs)
        assert "offers no TLS" in open_one.downs[0] and not open_one.ups

    with brokers.running(secured):
        run(url(secured, user="u:p@", options=f"&ca={tmp_path / 'ca.pem'}").replace("nats://", "tls://"), trial)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("nats://", "stands a host"),
        ("nats://h:99999", "A port is"),
        ("nats://u:pa/ss@h", "are written as"),
        ("nats://h/path", "no path"),
        ("nats://h?x=1", "what can be set for NATS is prefix, creds"),
        ("nats://h?prefix=a%20b", "A prefix is letters"),
        ("nats://h?prefix=", "A prefix is letters"),
    ],
)
def test_a_wrong_url_is_refused_in_words(wrong: str, said: str) -> None:
    with pytest.raises(BadBusMessage, match=said) as caught:
        carrier_of(wrong, Double.__new__(Double))
    assert "pa/ss" not in str(caught.value)
