"""The facade: what is refused before anything is bound, exit codes, the probe, and serve() from a script."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from launch import Launched, launched, logged, script, wait_for
from pauses import undisturbed
from pronghorn import server as facade
from pronghorn.errors import PronghornError
from pronghorn.server import Server

HOUSE = os.path.dirname(facade.__file__)


def failure(server: Launched, code: int) -> str:
    """What the server says when it cannot start; never a traceback of ours."""
    assert server.exit() == code
    assert server.report["error"]["exit_code"] == code
    assert HOUSE not in server.log
    assert sum(line.startswith("Error:") for line in server.log.splitlines()) == 1
    return server.log


def test_the_report_says_where_it_listens(tmp_path: Path) -> None:
    with launched(tmp_path, bind=("127.0.0.1:0", f"unix:{tmp_path}/sock")) as server:
        tcp, unix = server.report["listening"]
        assert tcp.startswith("127.0.0.1:") and unix == f"unix:{tmp_path}/sock"
        assert server.report["model"] == "epoll"
        assert server.report["pid"] == server.pid
        assert server.ask(b"hello\n") == b"HELLO\n"
        assert (tmp_path / "sock").exists()
        assert server.stop() == 0
        assert not (tmp_path / "sock").exists()


def test_the_log_says_what_is_served_and_how(tmp_path: Path) -> None:
    with launched(tmp_path, workers=2) as server:
        host, port = server.address
        wait_for(lambda: "Serving" in server.log)
        assert "Reloads keep connections, 3600 s at most (--on-reload keep)" in server.log
        assert f"Listening at: tcp://{host}:{port}" in server.log
        assert "Model epoll: a message handler never blocks" in server.log
        assert re.search(r"At most [\d,]+ connections: the limit of descriptors", server.log)
        assert "Serving upper (message style) under epoll: 2 workers" in server.log
        for record in re.findall(r"\[(?:INFO|WARNING)\] (.*)", server.log):
            assert len("WARNING:  " + record) <= 80, "a terminal has 80 columns"


@pytest.mark.parametrize("failing", [-1, 2])
def test_the_line_that_it_serves_comes_when_of_every_worker_it_is_known_whether_it_has_started(
    failing: int, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW.format(failing=failing))
    with launched(tmp_path, "slow:reply", workers=4) as server:
        assert server.ask(b"x\n") == b"X\n", "the first worker answers, whatever the others do"
        wait_for(lambda: " Serving " in server.log, "the line")
        before, _, after = server.log.partition(" Serving slow:reply (message style) under epoll: ")
        assert before.count(" is ready, process id") == (4 if failing < 0 else 3)
        assert after.startswith("4 workers" if failing < 0 else "3 of 4 workers"), server.log


SLOW = """
import itertools, os, time
import pronghorn
for number in itertools.count():
    try:
        os.close(os.open(f"import-{{number}}", os.O_CREAT | os.O_EXCL))
        break
    except FileExistsError:
        pass
time.sleep(0.2 * number)
if number == {failing}:
    raise RuntimeError("this one not")
@pronghorn.message(pronghorn.lines)
def reply(line):
    return line.upper()
"""


@pytest.mark.parametrize("model", ["epoll", "thread"])
def test_processes_have_names(tmp_path: Path, model: str) -> None:
    pytest.importorskip("setproctitle")
    with launched(tmp_path, model=model) as server:
        (worker,) = server.workers()
        host, port = server.address
        assert psutil.Process(server.pid).cmdline()[0] == f"pronghorn: supervisor {host}:{port}"
        assert psutil.Process(worker).cmdline()[0] == f"pronghorn: worker 1 {model} of {server.pid}"


BROKEN = [
    ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name'"),
    ("def broken(:\n", "SyntaxError"),
    ("raise SystemExit(3)\n", "SystemExit: 3"),
    ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "SIGSEGV"),
    ("import os\nos._exit(0)\n", "ended with exit status 0"),
    ("def other(): pass\n", "has no 'handle'"),
    ("handle = 42\n", "42"),
]


@pytest.mark.parametrize(("text", "words"), BROKEN)
def test_a_broken_handler_is_told_as_the_users_and_never_with_our_traceback(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    with launched(tmp_path, "mine:handle") as server:
        log = failure(server, 4)
        assert words in log
        assert "Listening" not in log, "refused before anything is bound"


def test_the_users_own_frames_are_shown(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def deep():\n    return 1 / 0\n\ndeep()\n")
    with launched(tmp_path, "mine.py:handle") as server:
        log = failure(server, 4)
        assert "mine.py" in log and "line 2, in deep" in log and "ZeroDivisionError" in log


def test_what_a_broken_module_printed_is_shown_and_what_a_good_one_printed_comes_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import sys\nprint('SET MY_KEY FIRST', file=sys.stderr)\nsys.exit(1)\n")
    with launched(tmp_path, "mine:handle") as server:
        assert "SET MY_KEY FIRST" in failure(server, 4)
    (tmp_path / "mine.py").write_text("import sys\nprint('I AM HERE', file=sys.stderr)\ndef handle(conn): pass\n")
    with launched(tmp_path, "mine:handle") as server:
        server.ready()
        assert server.log.count("I AM HERE") == 1


@pytest.mark.parametrize("source", ["nothing:here", "no/such/file.py:handle", "shouty"])
def test_a_handler_that_is_not_there(tmp_path: Path, source: str) -> None:
    with launched(tmp_path, source) as server:
        failure(server, 4)


def test_an_import_without_end_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import time\ntime.sleep(60)\n")

    def trial() -> None:
        with launched(tmp_path, "mine:handle", start_timeout=0.3) as server:
            assert "the import still runs" in failure(server, 3)

    undisturbed(trial)  # where the machine is busy, the time may be over before the import begins


def test_an_impossible_pair_is_refused_before_binding(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def handle(conn): pass\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with launched(tmp_path, "mine:handle", model="epoll", bind=f"127.0.0.1:{port}") as server:
            log = failure(server, 2)
            assert "thread" in log and "in use" not in log


def test_a_busy_port_is_told_with_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with launched(tmp_path, bind=f"127.0.0.1:{port}") as server:
            log = failure(server, 5)
            assert str(port) in log and str(os.getpid()) in log


def test_a_wrong_address_is_a_wrong_setting(tmp_path: Path) -> None:
    with launched(tmp_path, bind="127.0.0.1:port") as server:
        failure(server, 2)


LEAN = """
import sys
import pronghorn
@pronghorn.message(pronghorn.lines)
def modules(line):
    return " ".join(sys.modules).encode()
"""


def test_a_worker_imports_only_what_serving_needs(tmp_path: Path) -> None:
    (tmp_path / "lean.py").write_text(LEAN)
    for name in ("lean:modules", "lean.py:modules"):
        with logged(tmp_path, "-m", "pronghorn", "serve", "--bind", "127.0.0.1:0", name) as server:
            loaded = set(server.ask(b"\n").decode().split())
            assert "pronghorn.worker_process.worker" in loaded
            heavy = "click rich rich_click textual prompt_toolkit matplotlib asyncio gevent uvloop psutil dataclasses"
            assert not loaded & {*heavy.split(), "pronghorn.cli", "pronghorn.models.thread", "pronghorn.models.aio"}


def test_the_working_folder_comes_first_and_arguments_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import sys, pronghorn\n@pronghorn.message(pronghorn.lines)\ndef tell(line):\n"
        "    return f'{sys.path[0]} {sys.argv}'.encode()\n"
    )
    with launched(tmp_path, "mine:tell") as server:
        assert server.ask(b"\n").decode().rstrip() == f"{os.path.realpath(tmp_path)} ['pronghorn']"


SCRIPT = """
import signal
import pronghorn

@pronghorn.message(pronghorn.lines)
def shout(line):
    return line.upper() + b"!"

def mine(*_): pass

signal.signal(signal.SIGTERM, mine)
if __name__ == "__main__":
    pronghorn.serve(shout, bind=["127.0.0.1:0"], model="{model}", workers=2)
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1
    print("back again", file=__import__("sys").stderr)
"""


@pytest.mark.parametrize("model", ["epoll", "fork"])
def test_serve_from_a_script_does_what_the_command_does_and_comes_back(tmp_path: Path, model: str) -> None:
    with script(tmp_path, SCRIPT.replace("{model}", model)) as server:
        assert server.ask(b"hello\n") == b"HELLO!\n"
        assert "Serving shout (message style)" in server.log
        assert server.stop() == 0
        assert "back again" in server.log


def test_a_script_may_serve_twice(tmp_path: Path) -> None:
    text = "import pronghorn\nfor _ in range(2):\n    pronghorn.serve(bind='127.0.0.1:0')\n"
    with script(tmp_path, text) as server:
        server.send(signal.SIGTERM)
        wait_for(lambda: server.log.count(" Serving ") == 2)
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("workers=0", 2, "workers cannot be 0"),
        ("wrokers=1", 2, "Did you mean 'workers'?"),
        ("handler='no_such:thing'", 4, "no_such"),
        ("bind='127.0.0.1:1x'", 2, "1x"),
    ],
)
def test_serve_fails_as_the_command_fails(tmp_path: Path, call: str, code: int, words: str) -> None:
    with script(tmp_path, f"import pronghorn\npronghorn.serve({call})\n") as server:
        assert server.exit() == code
        assert words in server.log and "Traceback" not in server.log.replace(call, "")


def test_serve_without_a_main_guard_is_told_and_does_not_start_itself_over(tmp_path: Path) -> None:
    text = "import pronghorn\ndef handle(conn): pass\npronghorn.serve('script:handle', bind='127.0.0.1:0')\n"
    with script(tmp_path, text) as server:
        assert server.exit() == 4
        assert 'if __name__ == "__main__":' in server.log


def test_ctrl_c_during_the_probe(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import time, pathlib\npathlib.Path('importing').touch()\ntime.sleep(60)\ndef handle(conn): pass\n"
    )
    command = [sys.executable, "-c", "import pronghorn; pronghorn.serve('mine:handle', bind='127.0.0.1:0')"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE)
    try:
        wait_for((tmp_path / "importing").exists)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert b"Traceback" not in said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_what_the_handler_wants_done_at_exit_is_done_in_its_worker_only(tmp_path: Path) -> None:
    text = """
import atexit, os, pronghorn
def note(who):
    open("exits", "a").write(f"{who} {os.getpid()}\\n")
def make():
    atexit.register(note, "worker")
    return handle
def handle(conn): pass
if __name__ == "__main__":
    atexit.register(note, "script")
    pronghorn.serve("script:make", factory=True, bind="127.0.0.1:0")
"""
    with script(tmp_path, text) as server:
        (worker,) = server.ready()
        assert server.stop() == 0
        assert (tmp_path / "exits").read_text() == f"worker {worker}\nscript {server.pid}\n"


def test_the_lean_process_is_no_command(tmp_path: Path) -> None:
    with logged(tmp_path, "-m", "pronghorn.server") as server:
        assert server.exit() == 2
        assert "pronghorn serve" in server.log


def test_only_the_main_thread_serves() -> None:
    import threading

    errors: list[Exception] = []

    def attempt() -> None:
        try:
            Server("upper").run()
        except PronghornError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])
