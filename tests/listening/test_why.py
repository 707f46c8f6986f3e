"""Why an address cannot be bound: each scene is set with real sockets, and told by its cause."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from brokers import free_port
from launch import halt, wait_for
from pronghorn.listening import bind_trial, owners, sock_diag, why, why_words
from pronghorn.listening.why import Asked, Cause, Finding, Owner, Verdict
from pronghorn.listening.why_words import Told
from pronghorn.system.process_facts import Group, ProcessFacts, group_of_path

IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the socket module has it since Python 3.12
ME = f"Process {os.getpid()} ("
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's tables are Linux's")


def asked_of(address: str | int, asked: Asked = why.DEFAULT) -> tuple[Finding, Told, str]:
    """What decides, what is said, and all of it in one piece."""
    found = why.examine(why.bind_of(str(address)), asked)
    words = why_words.told(found, asked)
    return why.decisive(found), words, "\n".join([words.what, *words.why, words.hint])


def spoken(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def listener(host: str = "127.0.0.1", **options: bool) -> Iterator[socket.socket]:
    """At a port that nobody else is given once the listener has closed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, free_port()), family=family, **options) as server:
        yield server


def without_reuse_address() -> socket.socket:
    """A listener of a server that does not know SO_REUSEADDR."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


@pytest.fixture(params=["netlink", "psutil"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to ask which sockets there are."""
    if request.param == "psutil":
        monkeypatch.setattr(sock_diag, "at_port", unasked)
    return str(request.param)


def unasked(port: int, states: int) -> list[sock_diag.Sockets]:
    raise OSError(errno.EPROTONOSUPPORT, "there is no netlink")


def states_at(port: int) -> set[str]:
    return {each.state for each in sock_diag.at_port(port, owners.EVERY)}


# Listeners


@pytest.mark.usefixtures("way")
def test_another_listener() -> None:
    with listener() as server:
        finding, words, said = asked_of(spoken(server))
        assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.LISTENER)
        assert words.what == f"{spoken(server)} is taken."
        assert words.why[0].startswith(ME) and words.why[0].endswith(f") listens at {spoken(server)}.")
        assert f"Process {os.getpid()} runs as " in said and "s ago)" in said
        assert words.hint.startswith("This process itself has it: close that socket, or choose another ")
    finding, words, said = asked_of(finding.address)
    assert (finding.verdict, said.strip()) == (Verdict.FREE, f"{finding.address} is free.")


@pytest.mark.slow
@pytest.mark.usefixtures("way")
def test_a_wildcard_against_a_specific_address() -> None:
    with listener() as server:
        port = server.getsockname()[1]
        finding, _, said = asked_of(port)
        assert finding.cause is Cause.LISTENER
        assert f"listens at 127.0.0.1:{port}, which 0.0.0.0:{port} would cover." in said
        assert asked_of(f"127.0.0.2:{port}")[0].verdict is Verdict.FREE
    with listener("0.0.0.0") as server:
        port = server.getsockname()[1]
        finding, _, said = asked_of(f"127.0.0.1:{port}")
        assert finding.cause is Cause.LISTENER
        assert f"listens at 0.0.0.0:{port}, which is every interface." in said


@pytest.mark.slow
@pytest.mark.usefixtures("way")
def test_ipv6s_wildcard_holds_ipv4() -> None:
    with listener("::", dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", str(port)):
            finding, _, said = asked_of(address)
            assert finding.cause is Cause.LISTENER, said
            assert f"listens at [::]:{port}, which takes IPv4 too (no IPV6_V6ONLY)." in said
        assert "which is every interface" in asked_of(f"[::1]:{port}")[2]


def test_ipv6_alone_leaves_ipv4_free() -> None:
    for host in ("::", "::1"):
        with socket.socket() as other:  # a port that nobody has under IPv4 either
            other.bind(("", free_port()))
            port = other.getsockname()[1]
            server = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=False)
        with server:
            assert asked_of(f"0.0.0.0:{port}")[0].verdict is Verdict.FREE
            assert asked_of(f"[::1]:{port}")[0].cause is Cause.LISTENER
            finding, words, said = asked_of(port)
            assert finding.place[0] == socket.AF_INET6 and f"0.0.0.0:{port} is free." in words.why, said


def test_a_name_with_several_addresses() -> None:
    with listener() as server:
        finding, words, _ = asked_of(f"localhost:{server.getsockname()[1]}")
        assert finding.cause is Cause.LISTENER and words.what == f"{spoken(server)} is taken."


@linux
def test_whether_the_listener_shares_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, alone = Asked(reuse_port=True), Asked()
    with listener() as server:
        assert "The listener is without SO_REUSEPORT: no other can be beside it." in asked_of(spoken(server), alone)[2]
        said = asked_of(spoken(server), shared)[2]
        assert "The listener is without SO_REUSEPORT, and both need it: no other can be beside it." in said
    with listener(reuse_port=True) as server:
        assert asked_of(spoken(server), shared)[0].verdict is Verdict.FREE
        for copied in (True, False):  # where the socket cannot be copied, a bind tells
            with monkeypatch.context() as patched:
                if not copied:
                    patched.setattr(bind_trial, "options_of", lambda pid, inode: None)
                finding, _, said = asked_of(spoken(server), alone)
            assert finding.shares is True
            assert "The listener has SO_REUSEPORT: a server of the same user that sets it as well can" in said


def test_port_0_is_always_free() -> None:
    assert asked_of("127.0.0.1:0")[0].verdict is Verdict.FREE


# No listener


def left_behind(server: socket.socket, client_closes: bool) -> socket.socket:
    """A connection that the server has closed first, whose listener is closed too; the client's side."""
    client = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    accepted.close()
    server.close()
    if client_closes:
        client.close()
    return client


@linux
@pytest.mark.parametrize(("closes", "state"), [(True, "TIME_WAIT"), (False, "FIN_WAIT2")])
def test_a_connection_that_no_process_has(closes: bool, state: str) -> None:
    """The earlier server ran without SO_REUSEADDR: then a bind with it fails as well."""
    server = without_reuse_address()
    address, port = spoken(server), server.getsockname()[1]
    with left_behind(server, closes):
        wait_for(lambda: states_at(port) >= {state} and "ESTABLISHED" not in states_at(port), state)
        finding, words, said = asked_of(address)
        assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.LEFTOVER), said
        assert words.why[0].startswith(
            f"No process holds it: 1 connection of an earlier server is in {state} (ends in "
        )
        assert ("In FIN_WAIT2 the client has not closed its end" in said) is not closes
        assert "A bind with SO_REUSEADDR was tried, and fails" in said
        seconds = int(words.command.removeprefix("sleep "))
        assert 1 <= seconds <= 60
        (row,) = (each for each in finding.culprits if each.state == state)
        assert row.ends_within is not None and seconds - 1 <= row.ends_within <= seconds


@linux
@pytest.mark.parametrize(("closes", "state"), [(True, "TIME_WAIT"), (False, "FIN_WAIT2")])
def test_where_reuse_address_helps_it_was_tried(closes: bool, state: str) -> None:
    with listener() as server:
        address, port = spoken(server), server.getsockname()[1]
        with left_behind(server, closes):
            wait_for(lambda: states_at(port) >= {state}, state)
            finding, _, said = asked_of(address)
            assert (finding.verdict, finding.plainly) == (Verdict.FREE, False), said
            assert f"At that port 1 connection is in {state} (ends in " in said
            assert "A bind with SO_REUSEADDR was tried, and succeeds; one without it fails." in said
            finding, words, said = asked_of(address, Asked(reuse_address=False))
            assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.LEFTOVER), said
            assert words.hint == "With SO_REUSEADDR the bind succeeds, as was tried: leave out --no-reuse-address."


@linux
def test_bound_and_not_listening() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        finding, words, said = asked_of(spoken(bound))
        assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.BOUND), said
        assert words.why[0].startswith(ME)
        assert f"has bound {spoken(bound)} without listening, which most tools do not show." in words.why[0]
        assert words.hint.startswith("This process itself has it: close that socket, or choose another ")


@linux
def test_bound_and_not_listening_where_the_kernel_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "at_port", lambda port, states: [])
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr(os, "listdir", only_me(os.listdir))  # the look at all sockets of all processes takes long
        finding, _, said = asked_of(spoken(bound))
        if bind_trial._copy(os.getpid(), bound.fileno()) >= 0:
            assert finding.cause is Cause.BOUND and f"process {os.getpid()} (" in said.lower()
        monkeypatch.setattr(bind_trial, "bound_to", lambda port, pids: {})
        finding, _, said = asked_of(spoken(bound))
        assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.UNSEEN)
        assert "No socket is seen that holds it: one that is bound and does not listen is shown since Linux 6.8" in said


def only_me(listdir: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    return lambda path: [str(os.getpid())] if path == "/proc" else listdir(path)


@pytest.mark.usefixtures("way")
def test_an_outgoing_connection_that_took_the_port() -> None:
    with listener() as far, socket.socket() as outgoing:
        if sys.platform == "linux":  # an address where no other test's connection has the same port
            outgoing.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            outgoing.bind((f"127.{os.getpid() % 250 + 1}.77.1", 0))
        outgoing.connect(far.getsockname())
        finding, words, said = asked_of(spoken(outgoing))
        assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.CONNECTION), said
        assert words.why[0].endswith(f"1 connection is in ESTABLISHED, to {spoken(far)}.")
        assert "Outgoing connections get their ports from " in said


@linux
def test_connections_whose_clients_have_gone() -> None:
    with listener() as server, ExitStack() as undo:
        for _ in range(3):
            client = socket.create_connection(server.getsockname())
            undo.enter_context(server.accept()[0])
            client.close()
        port = server.getsockname()[1]
        wait_for(lambda: states_at(port) == {"LISTEN", "CLOSE_WAIT"}, "CLOSE_WAIT")
        said = asked_of(spoken(server))[2]
        assert "At that port 3 connections are in CLOSE_WAIT. In CLOSE_WAIT the client has ended" in said


# Processes

LEAVES_A_CHILD = """
import os, socket, sys, time
server = socket.create_server(("127.0.0.1", 0))
if os.fork() == 0:
    print(os.getpid(), server.getsockname()[1], flush=True)
    time.sleep(60)
os._exit(0)
"""


@linux
def test_a_forked_child_that_was_left_with_the_listener() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVES_A_CHILD], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    child, port = map(int, process.stdout.readline().split())
    try:
        process.wait()
        finding, words, said = asked_of(f"127.0.0.1:{port}")
        assert [each.facts.pid for each in finding.owners] == [child]
        assert finding.owners[0].left_behind, said
        assert f"The process that started process {child} has ended." in said
        assert words.command == f"kill {child}"
    finally:
        psutil.Process(child).kill()
        process.stdout.close()


AS_NOBODY = """
import os, sys
from pronghorn.cli import main
main.run(["why", "1"])
main.run(["why", sys.argv[1], "--json"])  # imports what nobody may not be able to read
print("--", flush=True)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main.run(["why", *sys.argv[1:]]))
"""


def as_nobody(*arguments: str) -> tuple[int, str]:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    command = [sys.executable, "-c", AS_NOBODY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout.partition("--\n")[2] + done.stderr


@linux
def test_another_users_socket_without_root() -> None:
    with listener() as server:
        status, said = as_nobody(spoken(server))
        assert status == 1
        assert f"A process of user root, which this user may not see, listens at {spoken(server)}.\n" in said
        assert "root sees which process it is, or choose another port:\n    sudo pronghorn why " in said


@linux
def test_a_port_that_takes_a_privilege() -> None:
    status, said = as_nobody("127.0.0.1:1")
    assert status == 1
    assert said.startswith("127.0.0.1:1 cannot be bound.\nA port below 1024 takes a privilege that user 65534 does not")


@linux
def test_a_port_that_takes_a_privilege_and_is_taken() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root binds such a port")
    for port in range(1023, 900, -1):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            said = as_nobody(f"127.0.0.1:{port}")[1]
            assert f"which this user may not see, listens at 127.0.0.1:{port}." in said
            assert "A port below 1024 takes a privilege that user 65534 does not have here." in said
            return


def test_an_address_that_is_not_of_this_host() -> None:
    finding, _, said = asked_of("192.0.2.1:8000")
    assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.ABSENT)
    assert said.startswith("192.0.2.1:8000 cannot be bound.\nThis host has no such address.\n")


def test_a_command_line_is_escaped_and_cut() -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    evil = ["\x1b[2J\n" + "x" * 5000]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *evil], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        words = asked_of(f"127.0.0.1:{process.stdout.readline().strip()}")[1]
        assert len(words.why[0]) < 500 and words.why[0].isprintable(), words
        process.stdin.close()


@linux
def test_a_process_that_was_suspended_by_ctrl_z() -> None:
    port = free_port()
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print({port}, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    with process:
        address = f"127.0.0.1:{process.stdout.readline().strip()}"
        halt(process.pid)
        words = asked_of(address)[1]
        assert f"Process {process.pid} is suspended (Ctrl-Z in a shell, or SIGSTOP), and answers nobody." in words.why
        subprocess.run(["sh", "-c", words.command], check=True)
        assert process.wait(20) == -signal.SIGTERM
        assert asked_of(address)[0].verdict is Verdict.FREE


def said_of(
    facts: ProcessFacts, role: str = "", control: str = "", cause: Cause = Cause.LISTENER, port: int = 8000
) -> Told:
    """What is said of a socket that such a process has."""
    place = (socket.AF_INET, ("127.0.0.1", port))
    sockets = (sock_diag.Sockets(socket.AF_INET, "127.0.0.1", "LISTEN", True, os.geteuid(), pids={facts.pid}),)
    owner = Owner(facts, role, control)
    return why_words.told([Finding(place, Verdict.TAKEN, cause, errno.EADDRINUSE, sockets, sockets, (owner,))])


@pytest.mark.parametrize(
    ("command", "pid", "group", "advice", "then"),
    [
        ("nginx: master process", 7, "0::/system.slice/nginx.service", "Stop the unit", "systemctl stop nginx.service"),
        ("x", 7, "0::/system.slice/a\x1bb;c.service", "Stop the unit", r"systemctl stop 'a\x1bb;c.service'"),
        (
            "x",
            7,
            "0::/user.slice/user-1.slice/user@1.service/app.slice/web.service",
            "Stop the unit",
            "systemctl --user stop web.service",
        ),
        ("x", 7, "0::/user.slice/user-1.slice/user@1.service/app.slice/x.scope", "Stop it", "kill 7"),
        ("x", 7, f"0::/system.slice/docker-{64 * 'a'}.scope", "Stop the container", f"docker stop {12 * 'a'}"),
        ("x", 7, f"0::/machine.slice/libpod-{64 * 'b'}.scope", "Stop the container", f"podman stop {12 * 'b'}"),
        ("x", 7, f"0::/kubepods/burstable/pod1/{64 * 'c'}", "Stop the container", f"crictl stop {12 * 'c'}"),
        ("x", 7, f"4:memory:/lxc/{64 * 'd'}", "Stop it", "kill 7"),
        ("/usr/bin/docker-proxy -proto tcp", 7, "", "Find and stop that one", "docker ps --filter publish=8000"),
        ("/sbin/init splash", 1, "0::/init.scope", "systemd holds it", "systemctl list-sockets --all | grep -w 8000"),
        ("/lib/systemd/systemd --user", 7, "", "systemd holds it", "systemctl list-sockets --all | grep -w 8000"),
        ("sh -c serve", 1, "", "It is the first process of this system or container", ""),
        ("python -m http.server", 7, "", "Stop it", "kill 7"),
    ],
)
def test_what_to_do_about_a_process(command: str, pid: int, group: str, advice: str, then: str) -> None:
    path = group.partition(":/")[2] and "/" + group.partition(":/")[2]
    words = said_of(ProcessFacts(pid, command, os.geteuid(), group=group_of_path(path)))
    assert advice in words.advice and words.command == then, words
    assert words.advice.endswith(", or choose another port:") or (pid == 1 and "Choose another port." in words.advice)


def test_what_another_user_owns_takes_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert said_of(ProcessFacts(7, "x", 0)).command == "sudo kill 7"
    assert said_of(ProcessFacts(7, "x", 1000)).command == "kill 7"
    words = said_of(ProcessFacts(7, "pronghorn: supervisor :1", 0), "supervisor", "/run/pronghorn/a b.sock")
    assert words.command == "sudo pronghorn ctl stop --socket '/run/pronghorn/a b.sock'"
    unit = ProcessFacts(7, "x", 0, group=Group("web.service", of_user=True))
    assert said_of(unit).command == "sudo systemctl --user -M root@ stop web.service"


@linux
def test_a_port_of_outgoing_connections_is_no_good_choice() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    said = said_of(ProcessFacts(7, "x", os.geteuid()), cause=Cause.CONNECTION, port=high)
    assert (said.advice, said.command) == (f"Stop it, or choose a port below {low}:", "kill 7")


def test_the_container_that_this_process_is_in_as_well_is_no_news() -> None:
    path = f"/system.slice/docker-{64 * 'a'}.scope"
    assert group_of_path(path).container == 12 * "a"
    assert group_of_path(path, ours=path) == Group()


# Unix paths


def test_a_live_unix_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        finding, words, said = asked_of(f"unix:{path}")
        assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.BOUND), said
        assert words.why[0].startswith(ME) and words.why[0].endswith(") has bound it without listening.")
        server.listen()
        (tmp_path / "link").symlink_to(path)
        monkeypatch.chdir(tmp_path)
        for spelled in (path, "s", "link"):
            finding, words, said = asked_of(f"unix:{spelled}")
            assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.LISTENER), said
            assert words.why[0].startswith(ME) and words.why[0].endswith(") listens there.")
            assert words.hint.startswith("This process itself has it: close that socket, or choose another ")


@linux
def test_a_live_unix_path_that_is_spelled_otherwise_in_the_kernels_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("folder/../s")
        server.listen()
        finding, words, said = asked_of(f"unix:{tmp_path}/s")
        assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.LISTENER), said
        assert words.why[0].startswith(ME)


def test_a_stale_unix_path(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
    finding, _, said = asked_of(f"unix:{tmp_path}/s")
    assert (finding.verdict, finding.cause) == (Verdict.FREE, Cause.STALE)
    assert f"Pronghorn replaces it; other servers want it removed first: rm {tmp_path}/s" in said
    assert (tmp_path / "s").exists()


def test_other_things_at_a_unix_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert asked_of(f"unix:{tmp_path}/none")[0].verdict is Verdict.FREE
    for path, cause, words in (
        (tmp_path / "file", Cause.FILE, "There is a file of that name, and no socket."),
        (tmp_path, Cause.FILE, "There is a folder of that name, and no socket."),
        (tmp_path / "no" / "s", Cause.FOLDER, f"There is no folder {tmp_path}/no."),
    ):
        finding, _, said = asked_of(f"unix:{path}")
        assert (finding.verdict, finding.cause) == (Verdict.TAKEN, cause) and words in said


@linux
def test_a_path_whose_lock_another_server_has(tmp_path: Path) -> None:
    with open(tmp_path / "s.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finding, words, said = asked_of(f"unix:{tmp_path}/s")
        assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.LOCKED), said
        assert words.why[0].startswith(f"A Pronghorn server has the lock of that path, {tmp_path}/s.lock: process ")


def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[2J")
    for left in (False, True):
        if left:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path)
        finding, words, _ = asked_of(f"unix:{path}")
        assert finding.cause is (Cause.STALE if left else Cause.FREE)
        assert all(each.isprintable() for each in (words.what, *words.why, words.command)), words


@linux
def test_an_abstract_name() -> None:
    name = f"@pronghorn-test-{os.getpid()}-{time.monotonic_ns()}"
    assert asked_of(f"unix:{name}")[0].verdict is Verdict.FREE
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name[1:]}")
        server.listen()
        finding, words, _ = asked_of(f"unix:{name}")
        assert finding.cause is Cause.LISTENER and words.why[0].startswith(ME)


def test_nothing_is_bound_where_nothing_may_be_tried() -> None:
    looks = Asked(tried=False)
    with listener() as server:
        assert asked_of(spoken(server), looks)[0].cause is Cause.LISTENER
        address = spoken(server)
    assert asked_of(address, looks)[0].verdict is Verdict.FREE


def test_where_the_system_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "at_port", unasked)
    monkeypatch.setitem(sys.modules, "psutil", None)
    with listener() as server:
        finding, _, said = asked_of(spoken(server))
        assert (finding.verdict, finding.cause) == (Verdict.TAKEN, Cause.UNSEEN), said
        assert asked_of(spoken(server), Asked(tried=False))[0].verdict is Verdict.UNKNOWN
