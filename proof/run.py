"""The ledger's trials with large numbers: prints a table and writes docs/proof.md.

Law: what is counted here is what the tests count; only the numbers are larger. Each trial is bounded, by its own waits
and by an alarm; one that fails is told with its faults, and the others go on. The exit status is 1 if any failed.

    make proof                                  # about forty minutes on two cores
    PROOF_SCALE=0.05 make proof ARGS='R3 R9'    # some of them, with a twentieth of the counts; docs/proof.md stays
    make proof ARGS='R3 R9'                     # some of them in earnest: their rows of docs/proof.md are made anew
"""

from __future__ import annotations

import compileall
import datetime
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
PAGE = ROOT / "docs" / "proof.md"
sys.path.insert(0, str(TESTS))
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

import guards  # noqa: E402
import several_hosts  # noqa: E402

import goodbye_trials as goodbyes  # noqa: E402
import handover_trials as handing  # noqa: E402
import ledger_reloads as reloading  # noqa: E402
import ledger_trials as trials  # noqa: E402
from handover_clients import COROUTINE  # noqa: E402
from ledger_client import MOST_OPEN  # noqa: E402
from ledger_trials import Result  # noqa: E402
from pronghorn import __version__  # noqa: E402
from pronghorn.models.registry import pages, styles  # noqa: E402

SCALE = float(os.environ.get("PROOF_SCALE", "1"))
MOST_SECONDS = 1500
RATE = 550  # connections a second, of which a busy machine may lose a few: 500 is what is promised
RATE_OF_FORK = 100  # clients and server share two processors, and each client costs a process
MOST_OF_FORK = 16  # under way in each of two processes of clients
RELOADS = {"epoll": 600, "thread": 200, "uvloop": 100, "asyncio": 50, "pool": 50, "fork": 50}
Trial = Callable[[Path], Result]


def scaled(count: int) -> int:
    return max(3, round(count * SCALE))


def available() -> list[str]:
    """The models that this machine has."""
    return [page.name for page in pages() if page.missing() is None]


def experiments() -> Iterator[tuple[str, str, Trial]]:
    """Each with its number, what is done in words, and how."""
    trial: Trial
    for model, times in RELOADS.items():
        if model in available():
            count, (rate, most) = scaled(times), offered(model)
            trial = partial(reloading.reloads, times=count, rate=rate, most=most, model=model)
            yield "R3", f"{count} reloads under {model}, {rate} connections a second", trial
    trial = partial(reloading.upgrades, times=scaled(100), rate=RATE)
    yield "R3b", f"{scaled(100)} upgrades, {RATE} a second", trial
    yield "R3c", f"{scaled(100)} broken reloads", lambda folder: reloading.broken_reloads(folder, scaled(100), RATE)
    for model in ("fork", "epoll", "thread", "uvloop"):
        if model in available():
            count, (rate, most) = scaled(20), offered(model)
            trial = partial(reloading.removed_bind, model=model, rate=rate, times=count, most=most)
            yield "R3d", f"{count} times a bind removed under {model}, {rate} a second", trial
    trial = partial(trials.kills, seconds=scaled(60), rate=RATE)
    yield "R4", f"kill -9 of a worker each 100 ms for {scaled(60)} s, {RATE} a second", trial
    yield "R4b", f"{scaled(50)} times kill -9 of the supervisor", lambda folder: trials.orphans(folder, scaled(50))
    for model in ("epoll", "thread"):
        trial = partial(trials.term_under_load, model=model, rate=RATE, seconds=5.0)
        yield "R9", f"TERM under {model}, with {RATE} connections a second", trial
    count = max(20, round(200 * SCALE))
    for model in available():
        for style in ("message", "protocol", "asyncio", "blocking"):
            if runs(model, style):
                trial = partial(trials.term, model=model, style=style, count=count)
                yield "R9", f"TERM under {model}, {style} style, {count} in the queue", trial
    yield from guards.experiments(scaled, available())
    yield "R13", f"{scaled(100)} sequences of up to 30 steps of the supervisor's model", model_of_the_supervisor
    yield "R17", "what does not answer, and the supervisor's system calls under strace", never_waits
    yield from spread_goodbyes()
    yield from several_hosts.experiments(scaled)
    yield "R18", "reloads that fail late, what is asked for during an upgrade, and each setting", transactions
    count = max(20, round(2000 * SCALE))
    for model in ("epoll", "uvloop"):
        if model in available():
            trial = partial(handing.handovers, times=scaled(100), count=count, model=model)
            yield "R20", f"{scaled(100)} reloads with handover under {model}, {count:,} connections that chat", trial
    trial = partial(handing.handovers, times=scaled(30), count=count, model="asyncio", handler=COROUTINE)
    yield "R20", f"{scaled(30)} reloads with handover of coroutines under asyncio, {count:,} connections", trial
    trial = partial(handing.handovers, times=scaled(100), count=count, kills=True)
    yield "R20b", f"the same, with kill -9 of a worker in every second one, {count:,} connections", trial
    yield "controls", "each detector against a server that has the fault", controls


def spread_goodbyes() -> Iterator[tuple[str, str, Trial]]:
    """Many devices under the models for many, and some under every pair of model and style."""
    count, spread = max(40, scaled(2000)), partial(goodbyes.spread, pause=4.0, seconds=20.0)
    for model, style, begin in (("epoll", "message", "reload"), ("asyncio", "streams", "upgrade")):
        trial: Trial = partial(spread, model=model, style=style, count=count, begin=begin, workers=4)
        yield "R21", f"{begin} of {count} devices spread over 20 s, {style} under {model}", trial
    count = max(40, scaled(500))
    trial = partial(spread, model="thread", style="blocking", count=count)
    yield "R21", f"reload of {count} devices spread over 20 s, blocking under thread", trial
    for model, style in (("epoll", "protocol"), ("asyncio", "asyncio.Protocol"), ("thread", "streams")):
        trial = partial(goodbyes.spread, model=model, style=style, count=60, seconds=3.0, pause=0.7, tls=True)
        yield "R21", f"reload spread over 3 s, {style} under {model}, TLS", trial
    for model in available():
        for style, kind in goodbyes.KINDS.items():
            if runs(model, kind):
                alone = {"count": 8, "workers": 8} if model in ("iterative", "prefork") else {"count": 60}
                trial = partial(goodbyes.spread, model=model, style=style, seconds=3.0, pause=0.7, **alone)
                yield "R21", f"reload spread over 3 s, {style} under {model}", trial
                if style in goodbyes.STAY:
                    yield "R21b", f"stay, {style} under {model}", partial(goodbyes.stays, model=model, style=style)


def offered(model: str) -> tuple[int, int]:
    """How many connections a second clients open, and how many each process of theirs has under way at most."""
    return (RATE_OF_FORK, MOST_OF_FORK) if model == "fork" else (RATE, MOST_OPEN)


def runs(model: str, style: str) -> bool:
    return any(page.name == model and style in styles(page) for page in pages())


def model_of_the_supervisor(folder: Path) -> Result:
    environment = {"MODEL_SEQUENCES": str(scaled(100)), "MODEL_STEPS": "30", "MODEL_TIMEOUT": str(MOST_SECONDS)}
    return pytest("R13 model of the supervisor", ["supervisor/test_supervisor_model.py"], environment)


def never_waits(folder: Path) -> Result:
    return pytest("R17 the supervisor never waits", ["system/test_helper.py", "supervisor/test_blocking_calls.py"], {})


def transactions(folder: Path) -> Result:
    files = ["supervisor/test_applied.py", "listening/test_binding.py", "supervisor/test_upgrade.py"]
    return pytest("R18 transactions", files, {})


def controls(folder: Path) -> Result:
    return pytest(
        "controls",
        ["test_ledger.py", "test_guard_trials.py", "models/test_faults.py", "-k", "bad or seen or looked_at"],
        {},
    )


def pytest(name: str, arguments: list[str], environment: dict[str, str]) -> Result:
    """A trial that is a test already."""
    result = Result(name)
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-o", "faulthandler_timeout=0", *arguments]
    done = subprocess.run(command, cwd=TESTS, env=os.environ | environment, capture_output=True, text=True)
    passed = re.search(r"(\d+) passed", done.stdout)
    result.figures["passed"] = passed[1] if passed else "0"
    result.expect(done.returncode == 0, done.stdout[-2000:])
    return result


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """TimeoutError after so long, whatever is going on."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"not over after {seconds} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def run(number: str, words: str, trial: Trial) -> tuple[Result, float]:
    since = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder  # for the control sockets
        try:
            with alarm(MOST_SECONDS):
                result = trial(Path(folder))
        except Exception as error:  # it is this trial's failure; the others go on
            result = Result(words)
            result.faults.append(f"{type(error).__name__}: {error}")
    return result, time.monotonic() - since


def outcome(result: Result) -> str:
    return "FAILED" if result.faults else "skipped" if result.skipped else "passed"


def row(number: str, words: str, result: Result, seconds: float) -> str:
    figures = "; ".join(f"{key}: {value}" for key, value in result.figures.items())
    told = f"skipped: {result.skipped}" if result.skipped else "passed"
    if result.faults:
        told = "**FAILED**: " + "; ".join(each[:200] for each in result.faults)
    cells = [number, words, told, figures, f"{seconds:.0f} s"]
    return "| " + " | ".join(cell.replace("\n", " ").replace("|", "/") for cell in cells) + " |"


def head() -> str:
    load = os.getloadavg()[0]
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    machine = f"{os.cpu_count()} CPUs, load {load:.1f} at the start"
    return (
        f"Run on {now}; Pronghorn {__version__}, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, {machine}; PROOF_SCALE={SCALE:g}."
    )


INTRODUCTION = """# Proof

What `make proof` found when it was last run: reloads, upgrades, kills and stops of a server while clients, in processes
of their own, write down how each of their connections ended; afterwards their books are compared with the server's. So
it is with peers that are deaf, slow or too many, with certificates that change, with packets that are lost, with system
calls that fail, and with a server that is short of something. `make test` makes the same trials with smaller numbers.
[tests/ledger_trials.py](../tests/ledger_trials.py), [tests/ledger_reloads.py](../tests/ledger_reloads.py),
[tests/guard_trials.py](../tests/guard_trials.py), [tests/line_trials.py](../tests/line_trials.py),
[tests/fault_trials.py](../tests/fault_trials.py), [tests/crash_trials.py](../tests/crash_trials.py),
[tests/crowd_trials.py](../tests/crowd_trials.py), [tests/goodbye_trials.py](../tests/goodbye_trials.py) and
[tests/host_trials.py](../tests/host_trials.py) say what they demand; this page is written by
[proof/run.py](../proof/run.py).

"""
EXPLANATION = """
## How to read it

- **Clients** are counted by how they ended. `ok`: everything that was asked was answered, once, in order, with the
  right digest, and then the server's end came. All else is a loss, unless the trial allows it: a kill loses the
  connections of the killed worker (R4), and a server that has to stop may refuse whom it has not answered yet (R4b,
  R9).
- **Spoke across a goodbye** are clients that hold a conversation of several requests with pauses between them, and
  sent the next one just when the server, draining, closed their connection between two requests. They had every
  earlier answer. That is what [draining](handlers.md#when-the-server-has-to-stop-draining) means; it is no loss by the
  rule, and it is counted here so that nobody is misled.
- Nothing lost in n attempts bounds the true rate at 3/n, with a confidence of 95 %: a thousand reloads without a loss
  say that fewer than 0.3 % of reloads lose anything.
- Everything happens on one machine, over the loopback interface, on which no packet is lost but under R12. Clients and
  server share its processors. R23 to R25 have hosts with addresses of their own, in network namespaces, behind HAProxy
  by the sample in deploy/haproxy ([tests/host_trials.py](../tests/host_trials.py)).
- **Crossed** are devices that sent a ping just when their server said goodbye: they read an end, and no reset.
  **Silent** are those that took their connection for dead, after 1.5 seconds without an answer; they ping every few
  seconds, which is most of the time until they are elsewhere.
- **Without a processor** is how long the processes of a reload were ready to run while others had the processors. It
  is taken off before a duration is judged (R3). Under fork, clients leave connections out while 32 are under way: a
  machine that has no time for the rate shows fewer connections a second, and not clients that gave up in a queue.
- **Supervisor** is what it holds before and after. A trial fails if descriptors or threads grew at all, or the memory
  by more than 1 MiB.
"""


def write(heading: str, rows: list[str], note: str = "") -> None:
    table = "\n".join(["| | what is done | outcome | figures | took |", "|---|---|---|---|---|", *rows])
    PAGE.write_text(f"{INTRODUCTION}{heading}\n\n{note}{table}\n{EXPLANATION}")


def renew(heading: str, rows: list[str]) -> None:
    """New rows take the place of those of the same trials, or come last; the page says that they are of another run."""
    lines = PAGE.read_text().splitlines()
    for each in rows:
        trial = each.split(" | ")[:2]
        if not any(line.split(" | ")[:2] == trial for line in lines):
            last = max(place for place, line in enumerate(lines) if line.startswith("|"))
            lines.insert(last + 1, each)
        lines = [each if line.split(" | ")[:2] == trial else line for line in lines]
    table = next(place for place, line in enumerate(lines) if line.startswith("|"))
    numbers = ", ".join(sorted({each.split(" | ")[0].strip("| ") for each in rows}))
    lines[table:table] = [f"Made again: {numbers}. {heading}", ""]
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    compileall.compile_dir(ROOT / "src", quiet=2)  # or each server compiles its code for itself
    wanted = set(sys.argv[1:])
    rows, failed, heading = [], 0, head()
    print(heading, flush=True)
    for number, words, trial in experiments():
        if wanted and number not in wanted:
            continue
        result, seconds = run(number, words, trial)
        failed += bool(result.faults)
        print(f"\n{number} {words}: {outcome(result)} after {seconds:.0f} s", flush=True)
        print("\n".join(str(result).splitlines()[1:]), flush=True)
        rows.append(row(number, words, result, seconds))
        if not wanted:
            write(heading, rows, "The run is not over: more trials follow.\n\n")
    if not wanted:
        write(heading, rows)
    elif SCALE == 1:
        renew(heading, rows)
    print(f"\n{len(rows) - failed} of {len(rows)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
