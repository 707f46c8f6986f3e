"""Several services in one server: each listener with a name, a handler, TLS, limits and deadlines of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import listeners_under_test
from launch import launched, logged, script, wait_for
from listeners_under_test import shout
from pauses import undisturbed
from pronghorn.cli.ctl import tables
from pronghorn.control.client import ask
from pronghorn.errors import HandshakeFailed, MissingExtra, PronghornError
from pronghorn.models.registry import load
from pronghorn.serving.gate import EXHAUSTED_PAUSE
from pronghorn.testing import Served, serving
from pronghorn.testing.tls import over_tls
from tls_under_test import Authority

pytestmark = pytest.mark.slow
OWN_FLOW = ("iterative", "fork", "pool", "gevent")
LOOPS = ("epoll", "uvloop")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> dict[str, str]:
    certificate, key = authority.sign("server")
    return {"tls_cert": certificate, "tls_key": key}


def conversation(sock: socket.socket, question: bytes = b"a\n") -> bytes:
    """One whole conversation, with half-close."""
    with sock:
        sock.sendall(question)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def told(control: Path, command: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(str(control), {"command": command}, 30.0)
    return found


def counted(control: Path) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in told(control, "status")["listeners"]}


@pytest.mark.parametrize("model", [*OWN_FLOW, *LOOPS])
def test_each_listener_has_its_handler_and_its_tls(model: str, pair: dict[str, str]) -> None:
    try:
        load(model)
    except MissingExtra as missing:
        pytest.skip(str(missing))
    other = "ask" if model in OWN_FLOW else "copy"
    value = b"None" if model in OWN_FLOW else b"table"
    listeners = [
        {"name": "plain", "bind": "127.0.0.1:0", "tls": "off"},
        {"name": other, "bind": "127.0.0.1:0", "handler": getattr(listeners_under_test, other)},
    ]
    with serving(shout, model=model, bind="127.0.0.1:0", listeners=listeners, **pair) as server:
        assert conversation(over_tls(server.connect(0))) == b"A of pool\n"
        assert conversation(server.connect(1)) == b"A of pool\n"
        assert conversation(over_tls(server.connect(2))) == b"%s of %s at %s\n" % (
            other.encode(),
            value,
            other.encode(),
        )
        server.stop()
    life = ["pool", "table"] if model in LOOPS else ["pool"]
    assert sorted(re.findall(r"(\w+) entered", server.log())) == life, "a lifespan once for each worker"
    assert sorted(re.findall(r"(\w+) left", server.log())) == life


@pytest.fixture(scope="module")
def control() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="p") as folder:  # a short path
        yield Path(folder) / "s"


@pytest.fixture(scope="module", params=["epoll", "thread", "fork"])
def limited(request: pytest.FixtureRequest, control: Path) -> Iterator[Served]:
    """One with limits of its own, one with deadlines, one behind proxies, one for nobody."""
    listeners = [
        {"name": "few", "bind": "127.0.0.1:0", "max_connections": 1, "max_connections_per_source": 1},
        {"name": "hasty", "bind": "127.0.0.1:0", "idle_timeout": "200ms", "message_timeout": 0},
        {"name": "proxied", "bind": "127.0.0.1:0", "proxy_from": "127.0.0.1"},
        {"name": "closed", "bind": "127.0.0.1:0", "deny": "127.0.0.1"},
    ]
    everywhere: dict[str, Any] = {"model": request.param, "bind": "127.0.0.1:0", "log_level": "debug"}
    with serving(shout, listeners=listeners, control_socket=str(control), **everywhere) as server:
        yield server


def answered(sock: socket.socket) -> bytes:
    sock.sendall(b"a\n")
    return sock.recv(100)


def test_limits_and_deadlines_are_each_listeners_own(limited: Served) -> None:
    with limited.connect(0) as other, limited.connect(1) as one, limited.connect(1) as waits:
        assert answered(other) == answered(one) == b"A of pool\n"
        waits.settimeout(0.3)
        waits.sendall(b"a\n")
        with pytest.raises(TimeoutError):
            waits.recv(100)

        def trial() -> None:
            times = []
            for _ in range(20):
                began = time.monotonic()
                assert conversation(limited.connect(0)) == b"A of pool\n"
                times.append(time.monotonic() - began)
            assert sum(each > EXHAUSTED_PAUSE * 0.9 for each in times) < 3, "a full listener held up another"

        undisturbed(trial)
        one.close()
        waits.settimeout(10)
        assert waits.recv(100) == b"A of pool\n"
        with limited.connect(2) as hasty:
            assert hasty.recv(1) == b""
        assert answered(other) == b"A of pool\n"
    assert conversation(limited.connect(3), b"PROXY TCP4 192.0.2.9 192.0.2.1 5 6\r\na\n") == b"A of pool\n"
    with limited.connect(4) as denied:
        assert denied.recv(1) == b""
    wait_for(lambda: "to closed: --allow or --deny" in limited.log(), "the refusal")
    wait_for(
        lambda: re.search(r"closed connection [\d-]+ from \S+ at PORT \d+ to hasty: timeout \(idle\)", limited.log())
    )
    assert re.search(r"received from 192\.0\.2\.9 at PORT 5 to proxied", limited.log())


def test_each_listener_is_counted_by_its_name(limited: Served, control: Path) -> None:
    while conversation(limited.connect(2), b"a\nb\n") == b"":
        pass  # its deadline was over before the question came
    conversation(limited.connect(3), b"PROXY TCP4 192.0.2.9 192.0.2.1 5 6\r\nfail\n")
    before = counted(control)

    def done() -> bool:
        found = counted(control)
        fine = found["hasty"]["messages"] >= 2 and found["hasty"]["bytes_in"] >= 4 and found["hasty"]["open"] == 0
        return bool(fine and found["proxied"]["handler_errors"] == 1)

    def adds_up() -> bool:  # a count is added to its listener's and to the whole, and may be seen between the two
        whole = told(control, "status")
        words = ("accepted", "refused", "messages", "bytes_in")
        return all(sum(each[word] for each in whole["listeners"]) == whole[word] for word in words)

    wait_for(done, f"the counts {before}")
    wait_for(adds_up, "the sum of all listeners")
    found = counted(control)
    assert found["closed"]["refused"] >= 0 and found["hasty"]["listening"] == [limited.listening[2]]


def test_client_certificates_are_asked_for_at_some_listeners(authority: Authority, pair: dict[str, str]) -> None:
    ways = ("required", "optional", "none")
    about = {"bind": "127.0.0.1:0", "tls_client_ca": authority.path, "tls_min_version": "1.3"}
    listeners = [{"name": how, "tls_client_cert": how, **about} for how in ways]
    with_one, without, old = (ssl.create_default_context(cafile=authority.path) for _ in range(3))
    with_one.load_cert_chain(*authority.sign("client"))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving("tls_under_test:by_message", bind="127.0.0.1:0", listeners=listeners, **pair) as server:
        assert b"TLSv1.2" in conversation(over_tls(server.connect(0), context=old))
        for place, how in enumerate(ways, 1):
            told = json.loads(conversation(over_tls(server.connect(place), context=with_one)))
            assert told[0] == "TLSv1.3" and (told[4] is None) is (how == "none")
            if how == "required":
                with pytest.raises((OSError, HandshakeFailed)):
                    assert conversation(over_tls(server.connect(place), context=without))
            else:
                assert json.loads(conversation(over_tls(server.connect(place), context=without)))[4] is None
            with pytest.raises((OSError, HandshakeFailed)):
                over_tls(server.connect(place), context=old)


def write(folder: Path, name: str, text: str) -> None:
    (folder / "new").write_text(text)
    (folder / "new").rename(folder / name)


def addresses(control: Path) -> dict[str, tuple[str, int]]:
    found = {}
    for name, each in counted(control).items():
        host, _, port = each["listening"][0].rpartition(":")
        found[name] = host, int(port)
    return found


def after_counts(control: Path) -> dict[str, tuple[int, int]]:
    return {name: (each["open"], each["accepted"]) for name, each in counted(control).items()}


TABLE = '[[listener]]\nname = "{}"\nbind = "127.0.0.1:{}"\nhandler = "mine.py:{}"\n'
MINE = "import pronghorn\n" + "".join(
    f"@pronghorn.message(pronghorn.lines)\ndef {name}(line): return b'{name}'\n" for name in ("one", "two", "three")
)


def test_a_reload_adds_removes_and_changes_listeners_or_nothing(tmp_path: Path, control: Path) -> None:
    control, config = control.with_name("r"), str(tmp_path / "pronghorn.toml")
    write(tmp_path, "mine.py", MINE)
    write(tmp_path, "pronghorn.toml", TABLE.format("a", 0, "one") + TABLE.format("b", 0, "two"))
    about = {"config": config, "control_socket": str(control), "on_reload": "handover", "model": "epoll"}
    with launched(tmp_path, None, bind=None, **about):
        before = addresses(control)
        with socket.create_connection(before["b"]) as old, socket.create_connection(before["a"]) as moves:
            assert answered(old) == b"two\n" and answered(moves) == b"one\n"
            port = before["a"][1]
            broken = TABLE.format("a", port, "one") + TABLE.format("b", 0, "nowhere") + TABLE.format("c", 0, "three")
            write(tmp_path, "pronghorn.toml", broken)
            with pytest.raises(PronghornError, match=r"Listener 'b': 'mine.py' has no 'nowhere'"):
                told(control, "reload")
            assert addresses(control) == before
            assert conversation(socket.create_connection(before["a"])) == b"one\n"
            changed = TABLE.format("a", port, "three").replace("mine.py:three", 'mine.py:three"\nframing = "lines')
            added = TABLE.format("c", 0, "one")
            write(tmp_path, "pronghorn.toml", changed + added)
            told(control, "reload")
            after = addresses(control)
            assert after.keys() == {"a", "c"} and after["a"] == before["a"]
            assert conversation(socket.create_connection(after["a"])) == b"three\n"
            assert conversation(socket.create_connection(after["c"])) == b"one\n"
            assert answered(moves) == b"three\n", "it did not move to its listener's new handler"
            assert answered(old) == b"two\n", "where its listener is gone, the old worker goes on"

            def old_workers() -> dict[str, Any]:
                found: dict[str, Any] = told(control, "status")["old"]
                return found

            wait_for(lambda: (old_workers()["listeners"], old_workers()["connections"]) == ({"b": 1}, 1), "one of b")
            assert tables._old_workers(old_workers())[0][1].plain == "1, with 1 open connection; 1 of b, which is gone"
            wait_for(lambda: after_counts(control)["a"][0] == 1, "the count of the one that has moved")
            assert after_counts(control)["a"] == (1, 3), "a connection that moves is accepted once, and open once"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(before["b"])
            write(tmp_path, "pronghorn.toml", changed.replace('"lines', '"netstring') + added)
            told(control, "reload")
            assert answered(moves) == b"three\n", "its client speaks as it did"
            why = "its framing is lines, and that of the new handler netstring"
            wait_for(lambda: told(control, "status")["handover"]["stay"].get(why) == 1, "the reason why it stays")
        told(control, "upgrade")
        again = {name: each["accepted"] for name, each in counted(control).items()}
        assert again["a"] >= 2 and again["c"] >= 1, "the new program knows no more which number is whose"


def test_addresses_over_a_settings_file_stay_its_listeners_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "pronghorn.toml").write_text(TABLE.format("a", 5000, "one") + TABLE.format("b", 5001, "two"))
    monkeypatch.setenv("PRONGHORN_BIND", "127.0.0.1:0,name=a,idle-timeout=10,127.0.0.1:0,name=b")
    with logged(tmp_path, "-m", "pronghorn", "serve", "--control-socket=off") as server:
        for number, done in ((signal.SIGHUP, "generation 2"), (signal.SIGUSR2, "Upgraded"), (signal.SIGHUP, "n 4")):
            os.kill(int(re.findall(r"\[(\d+)\] \[INFO\] Serving", server.log)[-1]), number)
            wait_for(lambda done=done: done in server.log or "failed" in server.log, "the change", 30)
            assert "failed" not in server.log, server.log
            assert server.ask(b"a\n") == b"one\n"


def test_a_reload_tells_what_it_changes_of_an_open_listener_and_what_waits(
    tmp_path: Path, pair: dict[str, str]
) -> None:
    write(tmp_path, "mine.py", MINE)
    head = f'tls-cert = "{pair["tls_cert"]}"\ntls-key = "{pair["tls_key"]}"\n' + TABLE.format("a", 0, "one")
    with tempfile.TemporaryDirectory(prefix="p") as folder:  # a short path
        local = TABLE.format("b", 0, "two").replace("127.0.0.1:0", f"unix:{folder}/b") + "tls = false\n"

        def settings(tls: str, mode: str) -> str:
            write(tmp_path, "pronghorn.toml", f'{head}tls = "{tls}"\n{local}unix-mode = "{mode}"\n')
            return str(tmp_path / "pronghorn.toml")

        with launched(tmp_path, None, bind=None, config=settings("off", "600")) as server:
            steps = (("on", "600", "with TLS"), ("starttls", "660", "with STARTTLS"), ("off", "600", "without TLS"))
            for turn, (tls, mode, said) in enumerate(steps, 1):
                settings(tls, mode)
                server.send(signal.SIGHUP)
                line = f"Listening from now on {said} at: 127.0.0.1:"
                wait_for(lambda line=line: line in server.log or "failed" in server.log, "the reload", 30)
                wait_for(lambda turn=turn: server.log.count("Reloaded in") == turn, "the end of the reload", 30)
            assert server.log.count("Listening from now on") == 3, server.log
            assert re.findall(r"serves.*; what changed of (\S+) takes", server.log) == ["--unix-mode"], server.log


def test_sockets_that_systemd_hands_down_are_listeners_by_their_names(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web, socket.create_server(("127.0.0.1", 0)) as other:
        listeners = '[[listener]]\nname = "web"\nframing = "stream"\n[[listener]]\nname = "other"\nhandler = "echo"\n'
        (tmp_path / "pronghorn.toml").write_text(listeners)
        code = (
            "import os, sys\n"
            f"os.dup2({other.fileno()}, 3); os.dup2({web.fileno()}, 4)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='other:web')\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'pronghorn', 'serve'])\n"
        )
        errors = tmp_path / "log"
        with open(errors, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=tmp_path,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=(web.fileno(), other.fileno()),
            )
        try:
            wait_for(lambda: "is ready" in errors.read_text(), "the start", 30)
            assert conversation(socket.create_connection(web.getsockname())) == b"A\n"
            assert conversation(socket.create_connection(other.getsockname())) == b"a\n"
            assert "(web)" in errors.read_text() and "(other)" in errors.read_text()
        finally:
            process.kill()
            process.wait()


def test_a_script_gives_handlers_of_its_own(tmp_path: Path) -> None:
    code = (
        "import pronghorn\n"
        "@pronghorn.message(pronghorn.lines)\ndef one(line): return b'one'\n"
        "def two(conn): conn.sendall(b'two\\n'); conn.recv(1)\n"
        "listeners = [pronghorn.Listener(name='two', bind='127.0.0.1:0', handler=two)]\n"
        "pronghorn.serve(one, bind='127.0.0.1:0', listeners=listeners)\n"
    )
    with script(tmp_path, code) as server:
        first, second = (each.rpartition(":")[2].split()[0] for each in server.report["listening"])
        assert conversation(socket.create_connection(("127.0.0.1", int(first)))) == b"one\n"
        assert conversation(socket.create_connection(("127.0.0.1", int(second))), b"") == b"two\n"
        assert "under thread" in server.log
