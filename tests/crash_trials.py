"""Trials of crashes: a peer that makes workers crash, workers that are killed beside their children, hung orphans.

Law: as in ledger_trials.py: a trial gives a Result, and asserts nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from boards import ask, board_of, serving_rows
from launch import PATIENCE, Launched, launched, lives
from ledger_trials import Result, until
from pronghorn.settings.source import Source

HANDLERS = Path(__file__).parent / "handlers_that_wait.py"
GOOD, BAD = b"192.0.2.1", b"192.0.2.66"


def _exchange(server: Launched, line: bytes, source: bytes) -> bytes:
    with suppress(OSError), server.connect() as sock:
        sock.settimeout(2)
        head = b"PROXY TCP4 %s 198.51.100.1 1000 2000\r\n" % source if source else b""
        sock.sendall(head + line)
        return sock.recv(100)
    return b""


def crashes(folder: Path, seconds: float, model: str, proxied: bool) -> Result:
    """One peer sends a message that crashes its worker, again and again, while another asks. `proxied`: they can be
    told apart, and one is refused; else both are the same source, and only a new worker each time helps."""
    result = Result(f"crashes under {model}")
    settings = {"proxy_from": "127.0.0.1"} if proxied else {}
    attacks: list[bytes] = []
    over = threading.Event()

    def attack(server: Launched) -> None:
        while not over.is_set():
            attacks.append(_exchange(server, b"crash\n", BAD if proxied else b""))

    with launched(folder, f"{HANDLERS}:crashes", model=model, workers=2, **settings) as server:
        server.ready(2)
        attacker = threading.Thread(target=attack, args=(server,))
        begun = time.monotonic()
        answers = [begun]
        attacker.start()
        while (now := time.monotonic()) < begun + seconds:
            if _exchange(server, b"hello\n", GOOD if proxied else b"") == b"HELLO\n":
                answers.append(now)
        over.set()
        attacker.join()
        gap = max(after - before for before, after in zip(answers, [*answers[1:], now], strict=True))
        lines = server.log.count("\n")
        result.expect(server.stop() == 0, "the stop")
    result.figures |= {
        "good answers": f"{len(answers) - 1:,} in {seconds:.0f} s",
        "messages that crash": f"{len(attacks):,}",
    }
    result.figures |= {"longest without one": f"{gap:.2f} s", "lines of log": f"{lines:,}"}
    result.expect(len(answers) > 5 * seconds, f"{len(answers)} good answers")
    result.expect(not proxied or len(attacks) > 20 * seconds, "who makes workers crash was not refused")
    result.expect(gap < 5.0, f"{gap:.1f} s without an answer")
    result.expect(lines < 200 + 20 * seconds, f"{lines} lines of log")
    return result


def left_behind(folder: Path, times: int, each: int, model: str, program: bool) -> Result:
    """kill -9 of a worker again and again, each time with clients whose processes live on: they are answered, counted,
    and drained by a reload."""
    result = Result(f"orphans under {model}")
    handler = Source(command=("/bin/cat",)) if program else f"{HANDLERS}:crashes"
    with ExitStack() as stack:
        settings = {"model": model, "workers": 1, "reload_drain_timeout": "1s", "drain_timeout": "10s"}
        server = stack.enter_context(launched(folder, handler, **settings))
        clients: list[socket.socket] = []
        for round in range(times):
            clients += [stack.enter_context(server.connect()) for _ in range(each)]
            for client in clients:
                result.expect(ask(client, b"HI\n") == b"HI\n", "an answer")
            worker = serving_rows(board_of(server))[0].pid
            os.kill(worker, signal.SIGKILL)
            ready = until(lambda round=round: server.log.count("is ready, process id") >= round + 2, PATIENCE)  # type: ignore[misc]
            result.expect(ready, "a new worker")
            count = len(clients)
            counted = until(lambda count=count: board_of(server).totals()["open"] == count, 10)  # type: ignore[misc]
            result.expect(counted, "all are counted as open")
        server.send(signal.SIGHUP)
        result.expect(until(lambda: not board_of(server).totals()["open"], 30), "all have drained")
        totals = board_of(server).totals()
        closed = sum(totals["closed"].values())
        result.expect(totals["accepted"] == closed + totals["refused"], f"the books: {totals}")
        result.figures |= {"workers killed": f"{times}", "connections that lived on": f"{len(clients)}"}
        result.expect(server.stop() == 0, "the stop")
    return result


def hung(folder: Path, model: str, handler: str) -> Result:
    """kill -9 of the supervisor while a handler hangs: all processes are gone in time, and the port is free."""
    result = Result(f"hung orphans under {model}")
    settings = {"model": model, "workers": 2, "drain_timeout": "1s", "worker_silence": "3s"}
    with launched(folder, f"{HANDLERS}:{handler}_for_ever", **settings) as server, server.connect() as sock:
        sock.sendall(b"x")
        result.expect(sock.recv(1) == b"x", "an answer")
        everybody = psutil.Process(server.pid).children(recursive=True)
        os.kill(server.pid, signal.SIGKILL)
        since = time.monotonic()
        server.exit()
        result.expect(until(lambda: not any(map(lives, everybody)), 90), "the end of all")
        result.figures["all gone after"] = f"{time.monotonic() - since:.1f} s"
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            result.expect(again.connect_ex(server.address) != 0, "the address is free")
    return result
