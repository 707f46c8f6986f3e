"""What is wrong on the bus, each as one clear error: in a handler, outside of a server, on the command line."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from launch import Launched, launched_code, wait_for
from pronghorn import bus
from pronghorn.bus.errors import HubSilent
from pronghorn.bus.members import Message
from pronghorn.cli.ctl import command
from pronghorn.errors import PeerTimeout, PronghornError, Replaced, TlsFailed

CODE = """
import pronghorn
from pronghorn import bus

CALLS = {
    b"300 bytes": lambda conn: conn.join("x" * 300),
    b"empty": lambda conn: conn.join(""),
    b"int": lambda conn: conn.join(5),
    b"exclusive": lambda conn: conn.join("a", exclusive="yes"),
    b"exclusive none": lambda conn: conn.join("a", exclusive=None),
    b"exclusive bytes": lambda conn: conn.join("a", exclusive=b"refuse"),
    b"on_bus": lambda conn: conn.join("a", on_bus="no function"),
    b"leave": lambda conn: conn.leave(None),
    b"long": lambda conn: bus.publish("a", b"x" * 101),
    b"text": lambda conn: bus.publish("a", "text"),
    b"to": lambda conn: bus.publish("a", b"x", to="everybody"),
    b"negative": lambda conn: bus.publish("a", b"x", timeout=-1),
    b"ask": lambda conn: bus.ask("a", b"x"),
    b"spaces": lambda conn: conn.join("a name with spaces, \\N{SNOWMAN} and \\x00"),
    b"255 bytes": lambda conn: conn.join(b"\\xff" * 255),
}
over = []

@pronghorn.message(pronghorn.lines)
def handler(line, conn):
    if line == b"end":
        over.append(conn)
        conn.close()
        return None
    try:
        if line == b"after the end":
            over[0].join("a")
        else:
            CALLS[line](conn)
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace("\\n", " ").encode()
    return b"fine"
"""
IN_A_HANDLER = [
    ("300 bytes", "BadBusMessage: A name on the bus has from 1 to 255 bytes. This one has 300. Take a shorter name."),
    ("empty", "BadBusMessage: .*This one has 0. Take a name that is not empty."),
    ("int", "TypeError: a name on the bus is a str or bytes, not int"),
    ("exclusive", "ValueError: exclusive is False, True or 'refuse'; got 'yes'"),
    ("exclusive none", "ValueError: exclusive is False, True or 'refuse'; got None"),
    ("exclusive bytes", "ValueError: exclusive is False, True or 'refuse'; got b'refuse'"),
    ("on_bus", "TypeError: on_bus is a function of two arguments"),
    ("leave", "TypeError: a name on the bus is a str or bytes, not NoneType"),
    ("long", "BadBusMessage: A payload on the bus has 101 bytes. --bus-max-message allows 100. Send less at once"),
    ("text", "TypeError: a payload is bytes, not str: encode a str"),
    ("to", "ValueError: to is 'all' or 'one'; got 'everybody'"),
    ("negative", "ValueError: a timeout is in seconds, more than 0"),
    ("ask", "BusError: ask\\(\\) would hold up the loop"),
    ("spaces", "fine"),
    ("255 bytes", "fine"),
    ("after the end", "BusError: The connection has ended, and joins nothing."),
]
OUTSIDE: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: bus.publish("a", b"x"), bus.BusUnavailable, "This process is no worker of a server"),
    (lambda: bus.ask("a", b"x"), bus.BusUnavailable, "no worker of a server, or not yet: a handler's module"),
    (lambda: bus.join("a"), RuntimeError, "serves no connection"),
    (lambda: bus.connect("unix:"), bus.BadBusMessage, "."),
    (lambda: bus.connect("unix:/x").groups(5), TypeError, "a name on the bus is a str or bytes, not int"),  # type: ignore[arg-type]
    (lambda: bus.connect("unix:/x").groups(limit="5"), TypeError, "a limit is a whole number, not str"),  # type: ignore[arg-type]
    (lambda: bus.connect("unix:/x").members("a", limit=0), ValueError, "a limit is 1 or more; got 0"),
    (lambda: bus.connect("unix:/x").publish("a", b"", to=None), ValueError, "to is 'all' or 'one'; got None"),  # type: ignore[arg-type]
    (lambda: bus.connect("unix:/nowhere/x.bus").publish("a", b"x"), bus.BusUnavailable, "No such file"),
]
ON_THE_COMMAND_LINE = [
    (["publish"], 2, "Missing"),
    (["publish", "a"], 2, "Missing"),
    (["publish", "x" * 300, "x"], 1, "has from 1 to 255 bytes"),
    (["publish", "", "x"], 1, "not empty"),
    (["publish", "a", "x" * 101], 1, "--bus-max-message"),
    (["publish", "a", "@/nowhere"], 2, "/nowhere cannot be read"),
    (["ask", "a", "x", "--timeout", "-1"], 2, "--timeout cannot be '-1'"),
    (["ask", "a", "x", "--timeout", "soon"], 2, "--timeout cannot be 'soon'"),
    (["ask", "nobody", "x"], 1, "Nobody has joined 'nobody'"),
    (["groups", "--limit", "0"], 2, "range"),
    (["groups", "--connections"], 2, "--connections needs a NAME"),
    (["groups", "nobody", "--connections"], 1, "No connection of this server has joined 'nobody'"),
    (["groups", "nobody"], 0, "No connection of this server has joined anything"),
]


def test_an_answer_that_is_no_bytes_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match="what on_bus returns, or reply sends, is bytes, not str: encode a str"):
        Message(b"device", b"?", lambda answer: None).reply("fine")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("w")
    settings: dict[str, Any] = {"control_socket": str(folder / "c.sock"), "bus_max_message": 100}
    with launched_code(folder, CODE, model="epoll", workers=1, **settings) as one:
        one.ready(1)
        with one.connect() as first:
            first.sendall(b"end\n")
            assert first.recv(10) == b""
        yield one
        assert "Traceback" not in one.log


@pytest.mark.parametrize(("line", "wanted"), IN_A_HANDLER)
def test_in_a_handler(server: Launched, line: str, wanted: str) -> None:
    with server.connect() as sock, sock.makefile("rb") as lines:
        sock.sendall(line.encode() + b"\nspaces\n")
        said = lines.readline().decode()
        assert re.match(wanted, said), said
        assert lines.readline() == b"fine\n", "the connection goes on"


@pytest.mark.parametrize(("call", "kind", "words"), OUTSIDE)
def test_outside_of_a_server(call: Callable[[], object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize(("arguments", "status", "words"), ON_THE_COMMAND_LINE)
def test_on_the_command_line(server: Launched, arguments: list[str], status: int, words: str) -> None:
    with server.connect() as sock:
        sock.sendall(b"spaces\n")  # so that there is a hub
        sock.recv(10)
        done = CliRunner().invoke(
            command, [*arguments, "--socket", str(server.folder / "c.sock")], standalone_mode=False
        )
    if isinstance(done.exception, PronghornError | click.ClickException):  # main prints it
        told = done.exception.exit_code, str(done.exception)
    else:
        told = done.return_value, done.output
    assert told[0] == status and words in told[1], told


@pytest.mark.slow
def test_a_bus_that_is_off_says_so(tmp_path: Path) -> None:
    with launched_code(tmp_path, CODE, control_socket=str(tmp_path / "c.sock"), bus="off") as one:
        wait_for(lambda: " Serving " in one.log, "the start")
        done = CliRunner().invoke(command, ["groups", "--socket", str(tmp_path / "c.sock")])
        assert "was started with --bus off" in str(done.exception)


ERRORS = [
    bus.NobodyThere("device:4711"),
    bus.NoAnswer("device:4711", 0.5),
    bus.CannotAnswer("device:4711", "Its handler has no on_bus."),
    bus.BusLost(),
    HubSilent(2),
    bus.BusUnavailable("No such file or directory.", "Is the server running?"),
    bus.OtherHostsUnreached(3),
    bus.NameTaken("device:4711"),
    bus.BadBusMessage("A name on the bus has from 1 to 255 bytes.", "This one has 0.", "Take another."),
    PeerTimeout("idle"),  # one that a handler may hand on, of those that are also an OSError, and that takes nothing
    TlsFailed("what came"),
    Replaced(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: type(each).__name__)
def test_an_error_comes_back_from_another_process_as_what_it_was(error: PronghornError) -> None:
    """By pickle (multiprocessing, concurrent.futures), and by its class and args as JSON has them (Celery)."""
    for back in (pickle.loads(pickle.dumps(error)), type(error)(*error.args)):
        assert type(back) is type(error)
        assert (str(back), repr(back), back.args, vars(back)) == (str(error), repr(error), error.args, vars(error))


def test_an_address_that_is_not_set_is_named() -> None:
    for connect in (bus.connect, bus.aconnect):
        with pytest.raises(TypeError, match=r"the address of a bus is a str, such as .*, not NoneType"):
            connect(None)  # type: ignore[arg-type]
