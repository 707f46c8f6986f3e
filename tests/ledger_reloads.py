"""The trials of reloads and upgrades: no client may notice one, whether it succeeds or fails.

Law: as of ledger_trials.py. Versions of the code show in the replies, so that it is known which generation served.
What is demanded in seconds is demanded of the server: the time for which its processes were ready to run, and others
had the processors, is taken off. Where a connection costs a process, clients leave some out when too many are under
way: on a machine that is too busy for the rate, the queue would only grow until every client gives up before its turn.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brokers import free_port
from launch import Launched, launched
from ledger import Book, ledger_server, load
from ledger_client import MOST_OPEN
from ledger_sampler import Sampler, gone, stat, withheld
from ledger_trials import Result, flat, living, until

SLOWEST_RELOAD = 2.0


class Reports:
    """What a server has said in its log about its workers; each look reads only what is new."""

    def __init__(self, server: Launched) -> None:
        self._file = open(server.errors)
        self._tail = ""
        self.ready: set[int] = set()
        self.upgraded: list[int] = []

    def look(self) -> Reports:
        whole, _, self._tail = (self._tail + self._file.read()).rpartition("\n")
        self.ready |= {int(pid) for pid in re.findall(r"is ready, process id (\d+)", whole)}
        self.upgraded += [int(pid) for pid in re.findall(r"Upgraded: process (\d+) serves", whole)]
        return self

    def close(self) -> None:
        self._file.close()


def reloads(folder: Path, times: int, rate: float = 500, most: int = MOST_OPEN, **settings: Any) -> Result:
    """Reloads one after the other under load: no client notices, and nothing of the old generation stays."""
    settings.setdefault("workers", 2)
    with ledger_server(folder, **settings) as server:
        server.ready(settings["workers"])
        return reloads_of(server, folder, settings["workers"], times, rate, most)


def reloads_of(server: Launched, folder: Path, workers: int, times: int, rate: float, most: int = MOST_OPEN) -> Result:
    """The same for a server that runs and reloads by HUP."""
    result, seconds, without, reports = Result("R3 reload"), [], [0.0], Reports(server)
    with Sampler(server.pid, server.address[1]) as sampler, load(server, rate, most=most) as clients:
        before = sampler.now()
        for number in range(1, times + 1):
            (folder / "version").write_text(str(number))
            old, since, before_it = living(server.pid), time.monotonic(), withheld(server.pid)
            server.send(signal.SIGHUP)
            over = until(lambda old=old: _renewed(server, reports, old, workers), 10)  # type: ignore[misc]
            seconds.append(time.monotonic() - since)
            # The supervisor's, and twice a new worker's: the probe before it does the same, and is gone.
            waited = withheld(server.pid) - before_it + 2 * max(map(withheld, living(server.pid)), default=0.0)
            without.append(min(waited, seconds[-1]))
            if not over or server.process.poll() is not None:
                result.expect(False, f"reload {number} was not over after 10 s: {server.log[-300:]}")
                break
        book = clients.stop()
        until(lambda: sampler.now().descriptors <= before.descriptors, 3)  # the last ones are on their way out
        after = sampler.now()
    reports.close()
    result.figures |= {"reloads": str(len(seconds)), "each took": spread(seconds)}
    result.figures["without a processor"] = f"{max(without):.2f} s at most"
    bound = SLOWEST_RELOAD + max(without)
    result.expect(max(seconds) <= bound, f"the slowest reload took {max(seconds):.2f} s")
    unnoticed(result, book, bound)
    versions = {each for row in book.rows for each in row.versions}
    result.expect(len(versions) > times * 0.9, f"only {len(versions)} of {times + 1} versions of the code were seen")
    flat(result, sampler, before, after)
    return result


def unnoticed(result: Result, book: Book, bound: float = SLOWEST_RELOAD) -> None:
    """No client lost anything, nor had to wait long."""
    result.books(book)
    slowest = max((each.ended - each.began for each in book.rows), default=0.0)
    result.figures["connections a second"] = f"{book.rate():.0f}"
    result.figures["slowest client"] = f"{slowest:.2f} s"
    result.figures["spoke across a goodbye"] = str(len(book.crossed()))
    result.expect_none(set(book.lost()) - set(book.crossed()), "clients lost")
    result.expect(slowest <= bound, f"a client waited {slowest:.2f} s")


def _renewed(server: Launched, reports: Reports, old: set[int], workers: int) -> bool:
    now = living(server.pid)
    return not now & old and len(reports.look().ready & now) == workers


def spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{ordered[len(ordered) // 2]:.2f} s (median), {ordered[-1]:.2f} s at most"


def upgrades(folder: Path, times: int, rate: float = 500, **settings: Any) -> Result:
    """Upgrades by USR2, one after the other, under load: no client notices, and each old program ends with 0."""
    workers = settings.setdefault("workers", 2)
    result, seconds = Result("R3b upgrade"), []
    with ledger_server(folder, **settings) as server:
        server.ready(workers)
        pid, reports = server.pid, Reports(server)
        with Sampler(pid, server.address[1]) as sampler, load(server, rate) as clients:
            before = sampler.now()
            for number in range(1, times + 1):
                (folder / "version").write_text(str(number))
                old, since = pid, time.monotonic()
                os.kill(pid, signal.SIGUSR2)
                if not until(lambda: len(reports.look().upgraded) == number, 30):  # noqa: B023
                    result.expect(False, f"upgrade {number} was not over after 30 s: {server.log[-300:]}")
                    break
                seconds.append(time.monotonic() - since)
                pid = sampler.pid = reports.upgraded[-1]
                result.expect(until(lambda: stat(old)[:1] in ([], ["Z"]), 10), f"program {old} stayed")  # noqa: B023
                whole = until(lambda: len(reports.look().ready & living(pid)) == workers, 5)  # noqa: B023
                result.expect(whole, f"upgrade {number}: not all workers are ready")
                if number == 1:
                    before = sampler.now()  # of the first that was started with descriptors
            book = clients.stop()
            until(lambda: sampler.now().descriptors <= before.descriptors, 3)
            after = sampler.now()
        result.expect(server.exit() == 0, "the first program did not end with 0")
        os.kill(pid, signal.SIGTERM)
        gone([pid])
    reports.close()
    result.figures |= {"upgrades": str(len(seconds)), "each took": spread(seconds)}
    unnoticed(result, book)
    flat(result, sampler, before, after)
    return result


HANDLER_FILE, SETTINGS_FILE = "mine.py", "pronghorn.toml"
BROKEN: dict[str, tuple[str, str, str]] = {
    # what is wrong: which file says what then, and what the log must say of it
    "a port that is taken": (SETTINGS_FILE, "{taken}", "Cannot listen on"),
    "a bad certificate": (SETTINGS_FILE, '{good}tls_cert = ["mine.py"]\n', "certificate"),
    "an import error": (HANDLER_FILE, "import nothing_of_that_name\n", "No module named 'nothing_of_that_name'"),
    "a syntax error": (HANDLER_FILE, "def reply(:\n", "SyntaxError"),
    "an exit": (HANDLER_FILE, "import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "an end": (HANDLER_FILE, "import os\nos._exit(0)\n", "ended"),
    "a hang": (HANDLER_FILE, "import time\ntime.sleep(60)\n", "the import still runs"),
    "an unknown setting": (SETTINGS_FILE, "{good}wokers = 3\n", "wokers"),
    "a wrong value": (SETTINGS_FILE, '{good}drain_timeout = "soon"\n', "drain_timeout"),
}
MINE = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom ledger_handler import Message as reply\n"


def broken_reloads(folder: Path, times: int, rate: float = 300, start_timeout: str = "3s") -> Result:
    """Reloads that cannot succeed, with one that can behind each: no client notices, and the log says why. Each kind is
    asked for by HUP first, and by `pronghorn ctl reload` the next time, which has to say why."""
    result = Result("R3c broken reload")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        bind = f"127.0.0.1:{free_port()}"
        good = f'bind = ["{bind}"]\nworkers = 2\nstart_timeout = "{start_timeout}"\n'
        taken = good.replace("]", f', "127.0.0.1:{holder.getsockname()[1]}"]')
        put(folder, HANDLER_FILE, MINE)
        put(folder, SETTINGS_FILE, good)
        control = str(folder / "control")
        with launched(folder, "mine:reply", config=SETTINGS_FILE, bind=None, control_socket=control) as server:
            server.ready(2)
            with Sampler(server.pid, server.address[1]) as sampler, load(server, rate) as clients:
                before = sampler.now()
                for number in range(times):
                    what = list(BROKEN)[number % len(BROKEN)]
                    name, text, why = BROKEN[what]
                    put(folder, name, text.format(good=good, taken=taken))
                    _broken(result, server, what, why, (by_signal, by_command)[number // len(BROKEN) % 2])
                    put(folder, name, good if name == SETTINGS_FILE else MINE)
                    _mended(result, server, what)
                    if number <= 1:
                        before = sampler.now()  # both of these kinds took a library, which stays
                book = clients.stop()
                until(lambda: sampler.now().descriptors <= before.descriptors, 3)
                after = sampler.now()
    result.figures["broken reloads"] = f"{times}, of {len(BROKEN)} kinds"
    unnoticed(result, book)
    flat(result, sampler, before, after)
    return result


FAILED, RELOADED = "Reload failed, and nothing has changed", "Reloaded in "


def _broken(result: Result, server: Launched, what: str, why: str, by: Callable[[Launched], str]) -> None:
    """One reload that must fail; `by` asks for it."""
    until(lambda: len(living(server.pid)) == 2, 5)  # those of the generation before are gone
    log, workers = len(server.log), living(server.pid)
    fault = by(server)
    until(lambda: FAILED in server.log[log:] or RELOADED in server.log[log:], 20)
    told = server.log[log:]
    result.expect(not fault, f"{what}: {fault}")
    result.expect(FAILED in told and RELOADED not in told, f"{what}: the reload did not fail: {told}")
    result.expect(why in told, f"{what}: the log does not say {why!r}: {told}")
    result.expect(workers <= living(server.pid), f"{what}: the workers are others")


def by_signal(server: Launched) -> str:
    server.send(signal.SIGHUP)
    return ""


def by_command(server: Launched) -> str:
    """`pronghorn ctl reload`; what is wrong with its answer to a reload that failed."""
    command = [sys.executable, "-m", "pronghorn", "ctl", "reload", "--socket", str(server.errors.parent / "control")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode in (2, 3, 4, 5) and done.stderr.startswith("Error: ") and not done.stdout:
        return ""
    return f"ctl reload ended with {done.returncode}: {done.stdout} {done.stderr}"


def _mended(result: Result, server: Launched, what: str) -> None:
    """One that must succeed."""
    log = len(server.log)
    server.send(signal.SIGHUP)
    over = until(lambda: RELOADED in server.log[log:], 20)
    result.expect(over, f"mended after {what}: the reload did not succeed: {server.log[log:]}")


def put(folder: Path, name: str, text: str) -> None:
    """Writes a file as editors do: beside it, then over it."""
    (folder / "new").write_text(text)
    (folder / "new").rename(folder / name)


# A listener that goes.


def removed_bind(folder: Path, model: str, rate: float, times: int = 1, most: int = MOST_OPEN) -> Result:
    """A reload whose settings have one `--bind` less, while clients come there at a steady rate: each is served, or
    refused before it was connected; nobody whose connect(2) had succeeded is reset."""
    result = Result(f"R3d removed bind, {model}")
    for number in range(times):
        here = folder / str(number)
        here.mkdir()
        (here / "pronghorn.toml").write_text('bind = ["127.0.0.1:0", "127.0.0.2:0"]\n')
        settings: dict[str, Any] = {"bind": None, "config": str(here / "pronghorn.toml"), "model": model}
        kinds = {"whole": 1}
        with ledger_server(here, workers=2, **settings) as server, load(server, rate, kinds, most=most) as clients:
            put(here, "pronghorn.toml", 'bind = ["127.0.0.2:0"]\n')
            server.send(signal.SIGHUP)
            result.expect(until(lambda server=server: "Reloaded in" in server.log, 20), "no reload")  # type: ignore[misc]
            book = clients.stop()
        result.books(book)
        result.expect_none(book.lost({"refused", "timeout-connect"}), "clients lost")
        result.expect(book.counts["ok"], "no client was served")
    return result
