"""What both checkers refuse of the bus: each statement with `# wrong`, and no other."""

import pronghorn
from pronghorn import bus


def joins(conn: pronghorn.Connection) -> None:
    conn.join("device", exclusive="refused")  # wrong: it is "refuse"
    conn.join(4711)  # wrong: no name


def joins_from_anywhere() -> None:
    bus.join("device", exclusive="take")  # wrong: True takes a name over


def joins_by_its_transport(transport: pronghorn.Transport) -> None:
    transport.join("device", exclusive="no")  # wrong: False shares a name


def publishes() -> None:
    bus.publish("room", b"hello", to="everybody")  # wrong: it is "all"
    bus.publish("room", "hello")  # wrong: text


def publishes_elsewhere(client: bus.Client) -> None:
    client.publish("room", b"hello", to="first")  # wrong: "one" is the last
    client.groups(limit="all")  # wrong: a number


async def publishes_by_coroutines(client: bus.AsyncClient) -> None:
    await client.publish("room", b"hello", to="any")  # wrong: it is "one"
    await bus.apublish("room", b"hello", to="any")  # wrong: it is "one"
