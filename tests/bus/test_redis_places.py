"""URLs of Redis: what they reach, over TLS, unix sockets, sentinels and a cluster, and why not, in words."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme
from carrier_trials import PATIENCE, Double, Party, hosts, until

import brokers
from brokers import Broker, asked
from launch import wait_for
from pronghorn import bus
from pronghorn.bus.carrier import Away
from pronghorn.bus.carriers import carrier_of
from pronghorn.bus.wire import REFUSE, REPLACE

pytest.importorskip("redis", reason="redis-py is not installed")


async def said(url: str, words: str) -> None:
    """What the host is told of this broker, which cannot be used, and is tried again."""
    party = Party(url)
    one = party.stranger()
    await until(lambda: one.states)
    assert words in one.states[0] and "secret" not in one.states[0]
    with pytest.raises(Away, match=re.escape(one.states[0])):
        await one.carrier.to_one(b"x", b"y")
    await asyncio.sleep(0.2)
    assert not one.task.done() and len(one.states) == 1
    await party.end()


@pytest.mark.slow
def test_why_a_broker_cannot_be_used_is_said_without_its_password(tmp_path: Path) -> None:
    one = brokers.redis(tmp_path, "--requirepass", "right", "--maxmemory", "100")
    two = brokers.redis(tmp_path, "--replicaof", "127.0.0.1", f"{one.port}", "--masterauth", "right")
    place = f"127.0.0.1:{one.port}"
    wrong = [
        (f"redis://:secret@{place}", f"Redis at {place} refuses the user or the password."),
        (f"redis://secret:secret@{place}", f"Redis at {place} refuses the user or the password."),
        (f"redis://{place}", f"Redis at {place} wants a password, and the URL has none."),
        (f"redis://:right@{place}", f"Redis at {place} has no memory left (maxmemory)."),
        (f"redis://:right@{place}/99", "says: DB index is out of range."),
        (f"rediss://:secret@{place}?socket_timeout=0.3", f"Redis at {place} does not answer, or has no TLS there."),
        (f"redis+cluster://:right@{place}", "says: This instance has cluster support disabled."),
        (f"redis+sentinel://{place}/shop?sentinel_password=right", "says: unknown command 'SENTINEL'"),
        (f"redis://127.0.0.1:{two.port}", f"Redis at 127.0.0.1:{two.port} is a replica, to which nothing is written."),
    ]
    gone = [
        (f"redis://:secret@{place}", f"Redis at {place} is not reached: Connection refused."),
        ("redis://:secret@nowhere.invalid", "Redis at nowhere.invalid:6379 is not reached: "),
        (f"redis+unix://:secret@{tmp_path}/none.sock", f"Redis at {tmp_path}/none.sock is not reached: No such file"),
    ]

    async def trial(trials: list[tuple[str, str]]) -> None:
        await asyncio.gather(*(said(*each) for each in trials))

    async def other() -> None:
        async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(web, "127.0.0.1", 0) as server:
            place = "127.0.0.1:{1}".format(*server.sockets[0].getsockname())
            words = f"Redis at {place} does not answer as Redis does: something else listens there."
            await said(f"redis://{place}", words)

    with brokers.running(one, two):
        asyncio.run(trial(wrong))
    asyncio.run(trial(gone))
    asyncio.run(other())


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "nats://127.0.0.1:1"])
def test_a_broker_that_was_never_there_takes_no_longer_than_a_question_may(url: str) -> None:
    took = list[float]()

    def refused() -> bool:
        since = time.monotonic()
        with pytest.raises(bus.BusUnavailable) as caught:
            client.ask("device:1", b"?", timeout=0.2)
        took.append(time.monotonic() - since)
        return "Connection refused" in str(caught.value)  # else it has not been tried in this time

    with bus.connect(url) as client:
        wait_for(refused, "what the kernel says")
    assert min(took) < 4


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:pa/secret@host", "not a URL of Redis"),
        ("redis://:pa#secret@host", "not a URL of Redis"),
        ("redis://host:secret/", "not a URL of Redis"),
        ("redis://host/secret", "not a URL of Redis"),
        ("redis://host?colour=secret", "wrong parameter: colour"),
        ("redis://host?socket_timeout=secret", "wrong parameter: socket_timeout"),
        ("redis://host?prefix={secret}", "A prefix has letters"),
        ("redis://host?socket_timeout=0", "socket_timeout has more than 0 seconds"),
        ("redis+sentinel://host/x?sentinel_colour=secret", "wrong parameter: sentinel_colour"),
        ("redis://one,two", "several hosts"),
        ("redis+sentinel://host", "names no service"),
        ("rediss://host?ssl_cert_reqs=secret", "not a URL of Redis"),
        ("amqp://:secret@host", "No carrier has this URL"),
        ("secret", "No carrier has this URL"),
    ],
)
def test_a_wrong_url_is_refused_in_words_without_its_password(url: str, words: str) -> None:
    with pytest.raises(bus.BadBusMessage, match=words) as caught:
        carrier_of(url, Double.__new__(Double))
    assert "secret" not in str(caught.value) and caught.value.hint


def test_a_missing_package_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in [each for each in sys.modules if each.partition(".")[0] == "redis" or "bus.redis_" in each]:
        monkeypatch.delitem(sys.modules, each)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(bus.BadBusMessage) as caught:
        carrier_of("redis://:secret@host", Double.__new__(Double))
    assert caught.value.hint == "pip install 'pronghorn[redis]'" and "secret" not in str(caught.value)
    with pytest.raises(bus.BadBusMessage, match="package of redis is not installed"):
        bus.connect("redis://:secret@host")


def test_a_client_has_its_package_before_a_fork_can_come_into_that() -> None:
    """An import that another thread had begun is a half one in a child, for ever."""
    code = (
        "import sys; from pronghorn import bus; assert 'redis' not in sys.modules; bus.connect('redis://127.0.0.1'); "
    )
    code += "assert 'pronghorn.bus.redis_carrier' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


RIGHTS = """~{shop}:* &{shop}:* -@all +evalsha +script|load +subscribe +ping +publish +pubsub|numsub +time +zadd +zrem
+zscore +zrange +zrevrange +zrangebyscore +zremrangebyscore +zcard +sadd +srem +spop +scard +smembers"""


@pytest.mark.slow
def test_it_works_over_tls_and_unix_sockets_with_the_least_rights(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    secure = brokers.free_port()
    tls = ("--tls-port", f"{secure}", "--tls-ca-cert-file", f"{tmp_path}/ca.pem", "--tls-auth-clients", "no")
    tls += ("--tls-cert-file", f"{tmp_path}/server.pem", "--tls-key-file", f"{tmp_path}/server.pem")
    one = brokers.redis(tmp_path, *tls, "--unixsocket", f"{tmp_path}/redis.sock")

    async def trial() -> None:
        user = "shop:p%40ss%2F"
        urls = [f"rediss://{user}@localhost:{secure}?ssl_ca_certs={tmp_path}/ca.pem&prefix=shop"]
        urls += [
            f"redis+unix://{user}@{tmp_path}/redis.sock?prefix=shop",
            f"redis+unix://{user}@{tmp_path}/redis.sock?prefix=shop",
        ]
        async with hosts(*urls) as (a, b, c):
            await asyncio.gather(a.join(b"x"), c.join(b"y", REFUSE))
            await b.join(b"x", REPLACE)
            await until(lambda: not a.joined)
            assert await a.carrier.to_all(b"x", b"1") == {b.id} and await a.carrier.to_one(b"y", b"2")
            a.carrier.send(c.id, b"3")
            await until(lambda: b.heard == [b"1"] and c.heard == [b"2", b"3"])
            await asyncio.sleep(0.6)  # a beat
            assert a.states == b.states == c.states == ["up"]
        assert asked(one, "KEYS", "*") == []
        await said(f"rediss://shop:secret@localhost:{secure}", "has a certificate that is not trusted: ")
        asked(one, "ACL", "SETUSER", "shop", "-zadd", ">e")
        lacking = "does not let its user do what is needed: The user executing the script can't run this command"
        await said(f"redis+unix://shop:e@{tmp_path}/redis.sock?prefix=shop", lacking)

    with brokers.running(one):
        asked(one, "ACL", "SETUSER", "shop", "on", ">p@ss/", *RIGHTS.split())
        asyncio.run(trial())


@pytest.mark.slow
def test_sentinels_name_the_master(tmp_path: Path) -> None:
    one = brokers.redis(tmp_path, "--requirepass", "right", "--masterauth", "right")
    two = brokers.redis(
        tmp_path, "--replicaof", "127.0.0.1", f"{one.port}", "--requirepass", "right", "--masterauth", "right"
    )
    watch = brokers.sentinel(tmp_path, one, "sentinel auth-pass shop right", "requirepass watch")
    mute = socket.create_server(("127.0.0.1", 0))  # takes connections, and says nothing
    places = f"127.0.0.1:{brokers.free_port()},127.0.0.1:{mute.getsockname()[1]},127.0.0.1:{watch.port}"
    url = f"redis+sentinel://:right@{places}/shop/2?sentinel_password=watch&socket_connect_timeout=0.3"

    async def trial() -> None:
        async with hosts(url, url) as (a, b):
            await b.join(b"room")
            assert await a.carrier.to_all(b"room", b"x") == {b.id}
            await until(lambda: asked(watch, "SENTINEL", "REPLICAS", "shop", password="watch"))
            one.kill()
            await until(lambda: not a.is_up and not b.is_up)
            await until(lambda: a.is_up and b.is_up)
            assert await a.carrier.to_all(b"room", b"y") == {b.id}
            await until(lambda: b.heard[-1:] == [b"y"])
        await said(url.replace("/shop", "/none"), "says: The sentinels know no service 'none'.")

    with mute, brokers.running(one, two, watch):
        asyncio.run(trial())


@pytest.mark.slow
def test_a_cluster_has_the_directory_on_the_node_of_its_slot(tmp_path: Path) -> None:
    nodes = []
    for each in range(3):
        (tmp_path / f"{each}").mkdir()
        nodes.append(
            brokers.redis(tmp_path / f"{each}", "--cluster-enabled", "yes", "--cluster-port", f"{brokers.free_port()}")
        )

    def move(source: Broker, target: Broker, slot: int) -> None:
        name = asked(target, "CLUSTER", "MYID").decode()
        asked(source, "FLUSHALL")
        for each in nodes:
            asked(each, "CLUSTER", "SETSLOT", f"{slot}", "NODE", name)

    async def trial() -> None:
        url = f"redis://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}?cluster=1&prefix=shop"
        slot = asked(nodes[0], "CLUSTER", "KEYSLOT", "{shop}")
        owner = slot // 5462
        async with hosts(url, url.replace("redis://", "redis+cluster://").replace("cluster=1&", "")) as (a, b):
            await b.join(b"room")
            assert await a.carrier.to_all(b"room", b"x") == {b.id}
            move(nodes[owner], nodes[owner - 1], slot)
            await until(lambda: len(a.states) > 2 and len(b.states) > 2 and a.states[-1] == b.states[-1] == "up")
            assert await a.carrier.to_all(b"room", b"y") == {b.id}
            await until(lambda: b.heard == [b"x", b"y"])
            await said(
                f"redis://127.0.0.1:{nodes[owner].port}?prefix=shop",
                "is a node of a cluster: the URL needs ?cluster=1.",
            )

    with brokers.running(*nodes):
        for each, (first, last) in zip(nodes, ((0, 5461), (5462, 10923), (10924, 16383)), strict=True):
            asked(each, "CLUSTER", "ADDSLOTSRANGE", f"{first}", f"{last}")
            asked(
                nodes[0],
                "CLUSTER",
                "MEET",
                "127.0.0.1",
                f"{each.port}",
                each.command[each.command.index("--cluster-port") + 1],
            )
        end = time.monotonic() + PATIENCE
        while any(
            b"cluster_state:ok" not in asked(each, "CLUSTER", "INFO") or len(asked(each, "CLUSTER", "SLOTS")) < 3
            for each in nodes
        ):
            assert time.monotonic() < end
            time.sleep(0.05)
        asyncio.run(trial())
