"""Every example is started and talked to; what the documentation shows is tried, and what it points to is there."""

from __future__ import annotations

import re
import runpy
import shlex
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch import logged
from pronghorn.cli import serve
from pronghorn.cli.layers import given
from pronghorn.models import registry
from pronghorn.settings.source import Source
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import until

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PATIENCE = 30


class Talk:
    """A conversation of lines."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")

    def hears(self) -> bytes:
        """The next line, without its end; None of it if the server has ended."""
        return self.file.readline().rstrip(b"\r\n")

    def ask(self, line: bytes) -> bytes:
        self.sock.sendall(line + b"\n")
        return self.hears()

    def ended(self) -> bool:
        return self.file.read() == b""


@contextmanager
def talk(server: Served | Callable[[], socket.socket]) -> Iterator[Talk]:
    with server.connect() if isinstance(server, Served) else server() as sock:
        one = Talk(sock)
        with one.file:
            yield one


def upper(server: Served) -> None:
    with talk(server) as one, talk(server) as other:
        assert one.ask(b"hello") == b"HELLO"
        assert other.ask(b"good day") == b"GOOD DAY"
        assert one.ask(b"again") == b"AGAIN"


def echo(server: Served) -> None:
    with talk(server) as one, talk(server) as other:
        assert one.ask(b"Hello") == b"Hello"
        assert other.ask(b"Good day") == b"Good day"


def guessing(server: Served) -> None:
    with talk(server) as player, talk(server) as other:
        assert player.hears() == other.hears() == b"I have a number from 1 to 100. Which is it?"
        assert player.ask(b"what?") == b"A number, please."
        assert other.ask(b"0") == b"Too low."
        low, high = 1, 100
        for count in range(1, 8):
            guess = (low + high) // 2
            answer = player.ask(b"%d" % guess)
            if answer == b"Too low.":
                low = guess + 1
            elif answer == b"Too high.":
                high = guess - 1
            else:
                assert answer == b"Right, with guess number %d. Goodbye." % count
                break
        assert player.ended()
        assert other.ask(b"101") == b"Too high.", "the other one's game goes on"


def tracker(server: Served) -> None:
    with talk(server) as one, talk(server) as other:
        assert one.ask(b"52.5 13.4") == b"login NAME, please; a name that nobody has"
        assert one.ask(b"login ada") == b"welcome"
        assert other.ask(b"login ada") == b"login NAME, please; a name that nobody has"
        assert other.ask(b"login bob") == b"welcome"
        assert one.hears() == b"bob came"
        assert one.ask(b"52.5 13.4") == b"ack 1"
        one.sock.shutdown(socket.SHUT_WR)
        assert other.hears() == b"ada left: done"


def keyvalue(server: Served) -> None:
    def ask(one: Talk, message: bytes) -> bytes:
        one.sock.sendall(len(message).to_bytes(4, "big") + message)
        return one.file.read(int.from_bytes(one.file.read(4), "big"))

    value = bytes(range(256)) * 1000
    with talk(server) as one, talk(server) as other, talk(server) as rude:
        assert ask(one, b"S\x03key" + value) == b"OK"
        assert ask(other, b"Gkey") == b"+" + value
        assert ask(other, b"Gnothing") == b"-"
        assert ask(one, b"S\x05empty") == b"OK"
        assert ask(one, b"Gempty") == b"+"
        assert ask(rude, b"what") == b"", "a wrong request ends its own connection"
        assert ask(one, b"Dkey") == b"OK"
        assert ask(other, b"Dkey") == b"-"


def resp(server: Served) -> None:
    with talk(server) as one, talk(server) as rude:
        one.sock.sendall(b"*3\r\n$3\r\nSET\r\n$4\r\nherd\r\n$4\r\n1\r\n2\r\n*2\r\n$3\r\nGET\r\n$4\r\nherd\r\n")
        assert one.file.read(15) == b"+OK\r\n$4\r\n1\r\n2\r\n"
        rude.sock.sendall(b"GET / HTTP/1.1\r\n")
        assert rude.ended()


def chat(server: Served) -> None:
    with talk(server) as ann, talk(server) as bob:
        assert (ann.hears(), bob.hears()) == (b"What is your name?",) * 2
        assert ann.ask(b"Ann") == b"Welcome. Here now: nobody."
        assert bob.ask(b"!") == b"Letters and digits only. What is your name?"
        assert bob.ask(b"Bob") == b"Welcome. Here now: Ann."
        assert ann.hears() == b"* Bob came"
        assert ann.sock.send(b"hello\nsecond line\n")
        assert (bob.hears(), bob.hears()) == (b"Ann: hello", b"Ann: second line")
        ann.sock.shutdown(socket.SHUT_WR)
        assert bob.hears() == b"* Ann left"


def notebook(server: Served) -> None:
    with talk(server) as one, talk(server) as other:
        assert one.ask(b"get milk") == b"nothing"
        assert one.ask(b"put milk two bottles") == b"noted"
        assert other.ask(b"get milk") == b"two bottles"
        assert other.ask(b"what") == b"put NAME TEXT, or get NAME"


def smtp(server: Served) -> None:
    with talk(server) as sender:
        assert sender.hears().startswith(b"220 ")
        assert sender.ask(b"DATA").startswith(b"503 ")
        assert sender.ask(b"HELO me.example\r").startswith(b"250 ")
        assert sender.ask(b"mail from:<ann@example.org>\r").startswith(b"250 ")
        assert sender.ask(b"RCPT TO:<bob@example.org>\r").startswith(b"250 ")
        assert sender.ask(b"DATA\r").startswith(b"354 ")
        assert sender.ask(b"Subject: hello\r\n\r\n..\r\n.\r").startswith(b"250 ")
        assert sender.ask(b"QUIT\r").startswith(b"221 ")
        assert sender.ended()
    assert "21 bytes from <ann@example.org> to <bob@example.org>" in server.log()


def words(server: Served | Callable[[], socket.socket]) -> None:
    with talk(server) as one:
        host, port = one.sock.getsockname()
        assert one.hears() == b"hello %s at %d" % (host.encode(), port)
        assert one.ask(b"two words") == b"2 words so far"
        assert one.ask(b"and three more") == b"5 words so far"


def reverse(server: Served | Callable[[], socket.socket]) -> None:
    with talk(server) as one:
        assert one.ask(b"hello") == b"olleh"
        assert re.fullmatch(rb"\d+\.\d s", one.ask(b"uptime"))


LOOP = ["epoll"]
OWN = ["thread", "fork"]
# What each example is served as, under which models beside the default one, and how to talk to it.
TALKS: dict[str, tuple[str, list[str], Callable[[Served], None]]] = {
    "upper_message.py": ("message", ["thread", "gevent"], upper),
    "upper_protocol.py": ("protocol", ["fork", "asyncio"], upper),
    "upper_asyncio.py": ("asyncio", [*LOOP, *OWN], upper),
    "upper_blocking.py": ("blocking", ["fork", "pool", "gevent"], upper),
    "upper_program.py": ("program", ["thread"], upper),
    "guessing.py": ("message", OWN, guessing),
    "tracker.py": ("message", ["thread", "asyncio"], tracker),
    "keyvalue.py": ("message", ["thread", "select"], keyvalue),
    "observer.py": ("message", [], upper),
    "resp.py": ("message", ["thread"], resp),
    "chat.py": ("protocol", ["thread", "poll"], chat),
    "notebook.py": ("message", ["prefork", "asyncio"], notebook),
    "smtp.py": ("blocking", ["iterative", "prefork"], smtp),
    "echo_asyncio.py": ("asyncio", [*LOOP, *OWN], echo),
    "words_socketserver.py": ("blocking", ["fork", "pool"], words),
    "script.py": ("message", ["iterative"], reverse),
}
CASES = [(name, model) for name, (_, others, _) in TALKS.items() for model in ["auto", *others]]


def source(name: str, attribute: str = "handler") -> Source:
    path = str(EXAMPLES / name)
    if TALKS[name][0] == "program":
        return Source(command=(sys.executable, path))
    return Source(name=f"{path}:{attribute}")


def test_every_example_has_its_talk() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(TALKS)


@pytest.mark.parametrize(("name", "model"), CASES)
def test_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, model: str) -> None:
    monkeypatch.setenv("NOTEBOOK", str(tmp_path / "notebook.sqlite"))
    if model != "auto" and registry.page(model).missing():
        pytest.skip(f"{model}: {registry.page(model).missing()}")
    style, _, conversation = TALKS[name]
    with serving(source(name), model=model) as server:
        conversation(server)
        if name != "keyvalue.py":  # whose talk has a wrong request in it
            assert "Handler failed" not in server.log()
        until(lambda: f"({style} style)" in server.log(), "the style")


def test_the_echo_protocol_beside_the_echo_streams() -> None:
    with serving(source("echo_asyncio.py", "Echo")) as server:
        echo(server)


def test_the_script_is_run_as_a_script(tmp_path: Path) -> None:
    with logged(tmp_path, str(EXAMPLES / "script.py"), "127.0.0.1:0") as server:
        reverse(server.connect)
        assert "under epoll: 2 workers" in server.log
        assert server.stop() == 0


def test_the_handler_for_socketserver_still_runs_there() -> None:
    names = runpy.run_path(str(EXAMPLES / "words_socketserver.py"))
    with socketserver.TCPServer(("127.0.0.1", 0), names["WordCounter"]) as server:
        server.timeout = PATIENCE
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        words(lambda: socket.create_connection(server.server_address[:2], PATIENCE))  # type: ignore[arg-type]
        thread.join(PATIENCE)


# The documentation.


def test_every_example_is_mentioned() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert not [name for name in TALKS if f"examples/{name}" not in text]


def blocks(language: str, *pages: Path) -> Iterator[tuple[str, str]]:
    """The fenced blocks of one language: the page's name, and the text."""
    for page in pages:
        for text in re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
            yield page.name, text


def code(text: str) -> str:
    """A file without its first line and its docstring."""
    return re.sub(r'\A(#![^\n]*\n)?"""(.*?)"""\n+', "", text, flags=re.DOTALL)


def test_the_code_on_the_page_of_handlers_is_the_examples() -> None:
    shown = [text.partition("\n") for _, text in blocks("python", DOCS / "handlers.md")]
    copies = [(head.removeprefix("# examples/"), text) for head, _, text in shown if head.startswith("# examples/")]
    assert {TALKS[name][0] for name, _ in copies} == {"message", "protocol", "asyncio", "blocking", "program"}
    for name, text in copies:
        assert text == code((EXAMPLES / name).read_text()), name


def test_the_counting_class_on_the_page_of_handlers(tmp_path: Path) -> None:
    (text,) = (text for _, text in blocks("python", DOCS / "handlers.md") if text.startswith("# counting.py\n"))
    (tmp_path / "counting.py").write_text(text)
    with serving(f"{tmp_path}/counting.py:handler") as server, talk(server) as one, talk(server) as other:
        assert one.ask(b"hello") == b"1 HELLO"
        assert one.ask(b"world") == b"2 WORLD"
        assert other.ask(b"hello") == b"1 HELLO"
        assert one.ask(b"quit") == b"3 lines, goodbye"
        assert one.ended()


COMMANDS = [
    (page, line.removeprefix("$ "))
    for page, text in blocks("console", *PAGES)
    for line in text.splitlines()
    if line.startswith("$ pronghorn serve")
]
WRONG_ON_PURPOSE = "--model epol"


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_the_commands_in_the_documentation_are_right(page: str, line: str) -> None:
    """Each is understood, and has settings that can be."""
    _, _, *arguments = shlex.split(line.partition(";")[0], comments=True)
    if line.endswith(WRONG_ON_PURPOSE):
        return
    with serve.command.make_context("serve", arguments) as context:
        handler, config = context.params.pop("handler"), context.params.pop("config")
        assert given(context, handler, config, context.params).settle()


def test_the_links_in_the_documentation_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            if "://" in path:
                continue
            place = (page.parent / path) if path else page
            if not place.exists() or (anchor and anchor not in anchors(place)):
                broken.append(f"{page.name}: {target}")
    assert not broken


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
