"""Sockets from systemd, or from whatever else started the server: looked at, used, and never ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from brokers import free_port
from launch import Launched, started, wait_for
from pronghorn.boot import Boot
from pronghorn.errors import BadSetting, CannotBind
from pronghorn.events import Event, ListenerOpened, ListenerSkipped
from pronghorn.listening.addresses import parse_bind
from pronghorn.listening.binding import activated_listeners, open_listeners
from pronghorn.listening.inherited import FIRST, activated, inherited_socket
from pronghorn.listening.listener import Listener
from pronghorn.settings import Settings, settle
from pronghorn.settings.layers import Layers

# As systemd does it: the sockets get the numbers from 3 on, the variables are set, and the process stays the same.
ACTIVATOR = """
import os, sys
numbers, names, *command = sys.argv[1:]
numbers = [os.dup2(int(each), 200 + place) for place, each in enumerate(numbers.split(","))]
for place, each in enumerate(numbers):
    os.dup2(each, 3 + place)
    os.close(each)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(numbers)), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, *command])
"""

SPY = """
import os, pronghorn
@pronghorn.message(pronghorn.lines)
def reply(line):
    return ",".join(sorted(each for each in os.environ if each.startswith("LISTEN"))).encode() or b"none"
"""


@pytest.fixture
def listening() -> Iterator[Callable[..., socket.socket]]:
    """Sockets as systemd would open them."""
    with contextlib.ExitStack() as stack:

        def opener(
            family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0), kind: int = socket.SOCK_STREAM
        ) -> Any:
            made = stack.enter_context(socket.socket(family, kind))
            if address:
                made.bind(address)
            if address and kind == socket.SOCK_STREAM:
                made.listen()
            return made

        yield opener


@contextlib.contextmanager
def served(folder: Path, sockets: list[socket.socket], names: str = "", **given: Any) -> Iterator[Launched]:
    """A server that an activator started, once it serves or has ended."""
    (folder / "activator.py").write_text(ACTIVATOR)
    (folder / "mine.py").write_text(SPY)
    from pronghorn.settings.source import Source

    (folder / "boot").write_bytes(msgspec.json.encode(Boot(Layers(given=given, source=Source(name="mine:reply")))))
    numbers = [os.dup(each.fileno()) for each in sockets]
    boot = os.open(folder / "boot", os.O_RDONLY)
    high = fcntl.fcntl(boot, fcntl.F_DUPFD, 300)  # out of the way of what the activator passes on
    os.close(boot)
    command = ["activator.py", ",".join(map(str, numbers)), names, "-P", "-m", "pronghorn.server", str(high)]
    with started(folder, command, [*numbers, high]) as server:
        wait_for(lambda: " Serving " in server.log or server.process.poll() is not None, "the start")
        server.report = {"listening": re.findall(r"Listening at: (?:t(?:cp|ls)://)?(\S+)", server.log)}
        yield server


def ask(address: Any) -> bytes:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
        sock.settimeout(10)
        sock.connect(address)
        sock.sendall(b"x\n")
        return sock.recv(100)


# The variables


def in_environment(**values: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), **values, "HOME": "/"}


def test_the_variables_are_read_once_and_removed(listening: Callable[..., socket.socket]) -> None:
    environment = in_environment(LISTEN_FDS="0", LISTEN_FDNAMES="a", LISTEN_PIDFDID="7")
    assert activated(environment) == []
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("pid", ["1", "", "x"])
def test_what_is_meant_for_another_process_is_left_alone(pid: str) -> None:
    environment = in_environment(LISTEN_FDS="1000", LISTEN_PID=pid)
    assert activated(environment) == []
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize(
    ("count", "said"), [("x", "a number"), ("-1", "a number"), ("²", "a number"), ("1000", "is not open")]
)
def test_variables_that_make_no_sense(count: str, said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        activated(in_environment(LISTEN_FDS=count))


# fd://


@pytest.mark.parametrize("text", ["fd://3", "fd://17", "fd://web", "fd://my.socket"])
def test_a_descriptor_as_bind(text: str) -> None:
    bind = parse_bind(text)
    assert (bind.fd, bind.host, bind.path) == (text[5:], "", "")


@pytest.mark.parametrize(
    "text", ["fd:", "fd:3", "fd://", "fd:///3", "fd://2", "fd://0", "fd://a b", "fd://99999999999"]
)
def test_what_names_no_descriptor(text: str) -> None:
    with pytest.raises(BadSetting):
        parse_bind(text)


def test_the_socket_is_made_ready(listening: Callable[..., socket.socket]) -> None:
    given = listening()
    given.set_inheritable(True)
    copy = os.dup(given.fileno())
    os.set_inheritable(copy, True)
    with inherited_socket(copy, "fd://9", 5) as taken:
        assert not taken.get_inheritable()
        assert not os.get_blocking(copy)


def test_a_socket_that_is_only_bound_listens_now() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with inherited_socket(os.dup(bound.fileno()), "fd://9", 5), socket.create_connection(bound.getsockname()):
            pass


def connected() -> socket.socket:
    one, other = socket.socketpair()
    other.close()
    return one


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "closed": (lambda: 1_000_000, "is not open"),
    "a file": (lambda: open(os.devnull, "rb"), "is no socket"),
    "a datagram socket": (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "no stream socket"),
    "one client": (connected, "one client's connection"),
    "unbound": (socket.socket, "has no address"),
    "unbound unix": (lambda: socket.socket(socket.AF_UNIX), "has no address"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_listening_socket_is_refused_and_left_open(fault: str) -> None:
    make, said = REFUSED[fault]
    thing = make()
    fd = thing if isinstance(thing, int) else thing.fileno()
    with pytest.raises(CannotBind, match=said) as caught:
        inherited_socket(fd, f"fd://{fd}", 5)
    assert caught.value.address == f"fd://{fd}"
    if not isinstance(thing, int):
        os.fstat(fd)
        thing.close()


def test_another_family_is_refused() -> None:
    if sys.platform != "linux":
        pytest.skip("netlink sockets are Linux's")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink, pytest.raises(CannotBind, match="family"):
        inherited_socket(netlink.fileno(), "fd://9", 5)


# Which of them are served


def as_listener(given: socket.socket, number: int, name: str = "") -> Listener:
    taken = inherited_socket(os.dup(given.fileno()), f"fd://{number}", 5)
    host, port = given.getsockname()[:2]
    return Listener(taken, f"{host}:{port}", None, f"fd://{number}", name)


def test_descriptors_by_number_and_by_name(listening: Callable[..., socket.socket]) -> None:
    three, four, five = (as_listener(listening(), number, name) for number, name in ((3, "web"), (4, "web"), (5, "x")))
    events: list[Event] = []
    opened = open_listeners(Settings(bind=("fd://web", "fd://5")), events.append, inherited=[three, four, five])
    assert opened == [three, four, five]
    assert events == [ListenerOpened(each.address, name=each.name) for each in opened]
    assert open_listeners(Settings(bind=("fd://x",)), events.append, keep=opened) == [five]
    with pytest.raises(CannotBind, match="there are: web, x"):
        open_listeners(Settings(bind=("fd://5", "fd://nobody")), events.append, inherited=[three, four, five])
    for each in opened:
        each.close()


def test_without_bind_all_are_served_and_the_default_otherwise(listening: Callable[..., socket.socket]) -> None:
    both = [as_listener(listening(), 3), as_listener(listening(), 4)]
    events: list[Event] = []
    assert open_listeners(settle({}), events.append, inherited=both) == both
    assert open_listeners(settle({}), events.append, keep=both) == both
    (other,) = open_listeners(settle({"bind": "127.0.0.1:0"}), events.append, inherited=both)
    assert other not in both
    assert events[-1] == ListenerSkipped(both[1].address, "It was handed down as fd://4, and no --bind names it.")
    for each in (*both, other):
        each.close()


def test_a_descriptor_is_taken_once(listening: Callable[..., socket.socket]) -> None:
    (one,) = [as_listener(listening(), 3, "web")]
    number = f"fd://{one.fileno()}"
    for binds in (("fd://web", number), (number, "fd://web"), (number, number), ("fd://web", "fd://web")):
        with pytest.raises(BadSetting, match="--bind gives"):
            open_listeners(Settings(bind=binds), lambda event: None, inherited=[one])
    assert one.fileno() >= 0
    one.close()


def test_a_descriptor_that_nobody_announced(listening: Callable[..., socket.socket]) -> None:
    given = listening()
    fd = os.dup(given.fileno())
    (one,) = open_listeners(Settings(bind=(f"fd://{fd}",)), lambda event: None)
    assert one.fileno() == fd
    assert given.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert one.address == f"127.0.0.1:{given.getsockname()[1]}"
    one.close()


def test_unix_sockets_are_named_and_never_removed(listening: Callable[..., socket.socket], tmp_path: Path) -> None:
    path = tmp_path / "s"
    fd = os.dup(listening(socket.AF_UNIX, str(path)).fileno())
    (one,) = open_listeners(Settings(bind=(f"fd://{fd}",)), lambda event: None)
    assert one.address == f"unix:{path}"
    one.close()
    assert path.exists()
    if sys.platform == "linux":
        fd = os.dup(listening(socket.AF_UNIX, f"\0{tmp_path}").fileno())
        (one,) = open_listeners(Settings(bind=(f"fd://{fd}",)), lambda event: None)
        assert one.address == f"unix:@{tmp_path}"
        one.close()


# Whole servers


def test_a_server_by_socket_activation(listening: Callable[..., socket.socket], tmp_path: Path) -> None:
    web, admin = listening(), listening(socket.AF_UNIX, str(tmp_path / "s"))
    with served(tmp_path, [web, admin], "web:admin") as server:
        assert server.report["listening"] == [f"127.0.0.1:{web.getsockname()[1]}", f"unix:{tmp_path / 's'}"]
        assert ask(web.getsockname()) == b"none\n"
        assert ask(str(tmp_path / "s")) == b"none\n"
        assert server.stop() == 0
    with socket.create_connection(web.getsockname()):
        got, _ = web.accept()  # it still listens: nobody has shut it down
        got.close()
    assert (tmp_path / "s").exists()


def test_the_socket_outlives_reload_and_upgrade(listening: Callable[..., socket.socket], tmp_path: Path) -> None:
    web = listening()
    with served(tmp_path, [web], "web", bind="fd://web") as server:
        server.send(signal.SIGHUP)
        wait_for(lambda: "generation 2 serves" in server.log, "the reload")
        assert ask(web.getsockname()) == b"none\n"
        server.send(signal.SIGUSR2)
        wait_for(lambda: "Upgraded: process" in server.log, "the upgrade")
        assert server.exit() == 0
        assert ask(web.getsockname()) == b"none\n"


def test_the_same_socket_twice_is_used_twice(listening: Callable[..., socket.socket], tmp_path: Path) -> None:
    web = listening()
    with served(tmp_path, [web, web]) as server:
        assert server.log.count(f"Listening at: tcp://127.0.0.1:{web.getsockname()[1]}") == 2
        assert ask(web.getsockname()) == b"none\n"


def test_a_server_refuses_what_is_no_socket(tmp_path: Path) -> None:
    with open(os.devnull, "rb") as null, served(tmp_path, [null]) as server:  # type: ignore[list-item]
        assert server.exit() == 5
        assert f"Descriptor {FIRST} is no socket" in server.log


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not installed")
def test_under_systemd_socket_activate(tmp_path: Path) -> None:
    address = ("127.0.0.1", free_port())
    command = ["systemd-socket-activate", f"--listen=127.0.0.1:{address[1]}", "--fdname=web"]
    command += ["-E", "PYTHONPATH", "-E", "PATH", sys.executable, "-m", "pronghorn", "serve"]
    exec_it = f"import os; os.execvp({command[0]!r}, {command!r})"
    with started(tmp_path, ["-c", exec_it], []) as server:
        wait_for(lambda: "Listening on" in server.log, "the activator")
        assert ask(address) == b"X\n"
        assert server.stop() == 0


def test_nothing_of_it_is_there_otherwise() -> None:
    assert activated_listeners({}) == []
