"""Trials of workers that turn on their server under load: it goes on, is bounded, and stops in order.

Law: as in ledger_trials.py: a trial gives a Result, and asserts nothing.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from launch import Launched, launched
from ledger_trials import Result

HANDLER = Path(__file__).with_name("hostile_handler.py")
ATTACKS = ("rubbish", "endless", "reports", "rights", "scribble", "truncate", "stop")
EVERY = 2.0  # seconds between two attacks
CLIENTS = 4
MIB = 1024 * 1024


def _ask(server: Launched, line: bytes) -> int:
    """The process id of the worker that answers; 0 for none."""
    with suppress(OSError, ValueError), server.connect() as sock:
        sock.settimeout(2)
        sock.sendall(line + b"\n")
        return int(sock.recv(100))
    return 0


def _own_memory(pid: int) -> int:
    """Bytes of a process that are no file's: shared memory, which a hostile worker may fill, has a size of its own."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def hostile(folder: Path, seconds: float, attacks: tuple[str, ...] = ATTACKS) -> Result:
    """Each attack in turn, by whichever worker hears of it, while clients ask; and a stop."""
    result = Result("hostile workers")
    answers: list[float] = []
    over = threading.Event()

    def load(server: Launched) -> None:
        while not over.is_set():
            if _ask(server, b"hello"):
                answers.append(time.monotonic())

    settings: dict[str, Any] = {"workers": 3, "model": "epoll", "worker_silence": "3s", "drain_timeout": "2s"}
    if os.geteuid() == 0:
        settings["user"] = "65534"
    with tempfile.TemporaryDirectory() as place:  # pytest's own and the proof's are root's alone
        os.chmod(place, 0o755)
        shutil.copy(HANDLER, place)
        with launched(Path(place), "hostile_handler:reply", **settings) as server:
            server.ready(3)
            supervisor = psutil.Process(server.pid)
            memory, spent = _own_memory(server.pid), sum(supervisor.cpu_times()[:2])
            clients = [threading.Thread(target=load, args=(server,)) for _ in range(CLIENTS)]
            begun = time.monotonic()
            for client in clients:
                client.start()
            made = 0
            while time.monotonic() < begun + seconds:
                made += bool(_ask(server, attacks[made % len(attacks)].encode()))
                time.sleep(EVERY)
            grown = (_own_memory(server.pid) - memory) / MIB
            share = (sum(supervisor.cpu_times()[:2]) - spent) / (time.monotonic() - begun)
            over.set()
            for client in clients:
                client.join()
            times = sorted([begun, *answers])
            gap = max((after - before for before, after in itertools.pairwise(times)), default=seconds)
            server.send(signal.SIGTERM)
            result.expect(server.exit() in (0, 6), "the stop")
            result.expect("Traceback" not in server.log, "a fault of the supervisor in the log")
    result.figures |= {"attacks": f"{made}", "good answers": f"{len(answers):,} in {seconds:.0f} s"}
    result.figures |= {"longest without one": f"{gap:.2f} s", "supervisor's memory": f"{grown:+.1f} MiB"}
    result.figures["supervisor's CPU"] = f"{100 * share:.1f} %"
    result.expect(len(answers) > 5 * seconds, f"{len(answers)} good answers")
    result.expect(gap < 10.0, f"{gap:.1f} s without an answer")
    result.expect(grown < 8, f"{grown:.1f} MiB more in the supervisor")
    result.expect(share < 0.3, f"{100 * share:.0f} % of a CPU for the supervisor")
    return result
