"""The trials of `--on-reload handover`: connections that stay through reloads, upgrades and kills.

Law: as of ledger_trials.py. Who had a connection last is known from the log: each worker that takes one over says so.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

from handover_clients import HANDLER, Clients
from launch import Launched, launched
from ledger_reloads import put, spread
from ledger_trials import Result, living, until
from pronghorn.control import client

HAS = re.compile(r"\[(\d+)\] \[DEBUG\] (?:received|connection [\d-]+) from (127\.\S+) at PORT (\d+)")
OVER = re.compile(r"\] Reload(?:ed in | failed)")  # a worker that is killed before it is ready ends its reload
KILL_WITHIN = 0.25  # seconds after the reload was asked for


def handovers(
    folder: Path,
    times: int,
    count: int,
    *,
    kills: bool = False,
    pause: float = 0.5,
    handler: str = HANDLER,
    **settings: Any,
) -> Result:
    """Reloads under `count` clients that speak about every `pause` seconds: no message is lost, doubled, out of order
    or answered twice, and no connection ends; with `kills` of workers in between, none but those of killed workers."""
    result, seconds = Result("R20 handover" + " with kills" * kills), []
    given = {"workers": 2, "on_reload": "handover", "control_socket": str(folder / "ctl"), "max_generations": 10}
    given |= {"log_level": "debug"} if kills else {}
    _put(folder, handler, 0)
    with launched(folder, "mine:Handler", **{**given, **settings}) as server:
        server.ready(2)
        killed: list[int] = []
        with Clients(server.address, count, pause) as clients:
            until(lambda: _status(folder)["open"] == count, 10)
            for number in range(1, times + 1):
                _put(folder, handler, number)
                since, log = time.monotonic(), len(OVER.findall(server.log))
                server.send(signal.SIGHUP)
                if kills and number % 2:
                    killed += _kill(server)
                if not until(lambda log=log: len(OVER.findall(server.log)) > log, 30):  # type: ignore[misc]
                    result.expect(False, f"reload {number} was not over after 30 s: {server.log[-500:]}")
                    break
                seconds.append(time.monotonic() - since)
            told = clients.stop()
        status, log = _status(folder), server.log
    _judge(result, told, status, _owners(log), killed)
    result.figures |= {"clients": str(count), "reloads": str(len(seconds)), "each took": spread(seconds)}
    if not kills:
        moves = status["handover"]["moved"]
        result.expect(moves == count * len(seconds), f"{moves} moves of {count * len(seconds)}: {log[-2000:]}")
        result.expect(told["versions"] > len(seconds) * 0.8, f"only {told['versions']} versions of the code were seen")
    return result


def _judge(
    result: Result, told: dict[str, Any], status: dict[str, Any], owners: dict[str, int], killed: list[int]
) -> None:
    """What the clients found, each against who had its connection last."""
    lost = [each for each in told["faults"] if each[0].startswith("ended")]
    wrong = [each for each in told["faults"] if each not in lost]
    result.expect_none(wrong, "replies that are wrong")
    result.expect_none(told["unheard"], "clients whose last message was not answered")
    others = [each for each in lost if owners.get(each[1], each[2]) not in killed and each[2] not in killed]
    if len(others) > len(killed):  # each kill may come between a worker's taking a connection and its saying so
        result.expect_none(others, "connections that ended without a kill of their worker")
    result.figures |= {
        "messages": f"{told['messages']:,}",
        "moves": f"{status['handover']['moved']:,}",
        "longest pause": f"{status['handover']['longest_pause'] * 1000:.1f} ms",
        "slowest reply": f"{told['slowest'] * 1000:.0f} ms",
    }
    if killed:
        result.figures |= {"kills": str(len(killed)), "lost with killed workers": str(len(lost))}


def _kill(server: Launched) -> list[int]:
    """Kills one worker at some moment of a reload, an old or a new one."""
    time.sleep(random.random() * KILL_WITHIN)
    workers = sorted(living(server.pid))
    if not workers:
        return []
    victim = random.choice(workers)
    os.kill(victim, signal.SIGKILL)
    return [victim]


def _owners(log: str) -> dict[str, int]:
    """Which worker had a client's connection last, by the client's end."""
    return {f"{host}:{port}": int(pid) for pid, host, port in HAS.findall(log)}


def _status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = client.ask(str(folder / "ctl"), {"command": "status"}, 15, lambda: None)
    return found


def _put(folder: Path, handler: str, version: int) -> None:
    put(folder, "mine.py", handler.replace("VERSION", str(version)))
