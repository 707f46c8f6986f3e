"""`make bench`: Pronghorn's models beside their competitors, in one run on one machine.

Law: every server gives the same service, the rounds are interleaved, and a ratio compares two numbers of the same
round. What is measured is what the server spends, not what the client waits for. Whatever is started here is ended
here, by its process id, on Ctrl-C too.

    python benchmarks/compare.py                          # all of it, about 15 minutes: writes RESULTS.md and the plots
    python benchmarks/compare.py quick                    # all of it in moments, for its machinery: numbers say nothing
    python benchmarks/compare.py connections memory       # some scenarios, told on the terminal
    python benchmarks/compare.py --from results.json      # the report once more, without measuring
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import compiling
import plots
import report
from measuring import IDLE, Results, rounds
from scaling import EXPERIMENTS, QUICK, SWEEPS, WHOLE, Curves, Extent
from scenarios import IN_RESULTS, SCENARIOS, Scenario, absent, contenders
from servers import HERE, MODELS, PEERS, ROOT, Field, compiled_version
from tables import Table, experiment, markdown, show, summary, sweep

ALL = [*IN_RESULTS, *EXPERIMENTS, *SWEEPS]


def facts(runs: dict[str, Results], seconds: float) -> dict[str, object]:
    """Where the numbers come from; with the interpreter's own start, the floor of every start."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    start = (time.perf_counter() - began) * 1000
    cpu = "unknown"
    with ExitStack() as stack:
        for line in stack.enter_context(open("/proc/cpuinfo")):
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    load = "load.c, in C" if compiling.programs() else "load.py, in Python: there is no C compiler"
    found: dict[str, object] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.2f} at the end",
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()} (starts in {start:.0f} ms)",
        "descriptors": f"{resource.getrlimit(resource.RLIMIT_NOFILE)[1]:,} for a process",
        "load client": f"{load} (load.py for TLS and for slow-client){report.client_share(runs)}",
        "took": f"{seconds:.0f} s",
    }
    if version := compiled_version():
        found["compiled"] = version
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare Pronghorn's models with their competitors.")
    known = ["results", "quick", *SCENARIOS, *EXPERIMENTS, *SWEEPS]
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(known)} (results)")
    parser.add_argument("--models", default=",".join(MODELS), help="models of Pronghorn, with commas (%(default)s)")
    parser.add_argument("--baselines", default=",".join(PEERS), help="competitors (%(default)s)")
    parser.add_argument("--rounds", type=int, help="over all servers (3 or 5; memory 1)")
    parser.add_argument("--seconds", type=float, default=0.3, help="per server and round (%(default)s)")
    parser.add_argument("--connections", type=int, help="open at any time (64)")
    parser.add_argument("--size", type=int, help="bytes of a message (64)")
    parser.add_argument("--depth", type=int, help="messages in flight on a connection (1)")
    parser.add_argument("--idle", type=int, default=IDLE, help="idle connections of `memory` (%(default)s)")
    parser.add_argument("--tls", action="store_true", help="the same as the scenario tls")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number of every round")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write RESULTS.md, results.json and the plots")
    parser.add_argument("--from", dest="numbers", type=Path, metavar="FILE", help="report on these numbers")
    options = parser.parse_args()
    options.what = options.what or (["tls"] if options.tls else ["results"])
    if unknown := {*options.what} - {*known}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    options.models = [name for name in options.models.split(",") if name]
    options.baselines = [name for name in options.baselines.split(",") if name]
    if unknown := {*options.models} - {*MODELS} | {*options.baselines} - {*PEERS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


def scenario_of(name: str, options: argparse.Namespace) -> Scenario:
    """The scenario, with what the command line says otherwise."""
    wished = {key: getattr(options, key) for key in ("rounds", "connections", "size", "depth")}
    return replace(SCENARIOS[name], **{key: value for key, value in wished.items() if value is not None})


@contextmanager
def certificate() -> Iterator[list[str]]:
    """Paths of a certificate for localhost and its key."""
    import trustme

    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/cert.pem", f"{folder}/key.pem"]
        pair = trustme.CA().issue_cert("localhost")
        pair.cert_chain_pems[0].write_to_path(paths[0])
        pair.private_key_pem.write_to_path(paths[1])
        yield paths


class Comparison:
    """One run: what has been measured so far, told as it comes."""

    def __init__(self, options: argparse.Namespace, extent: Extent) -> None:
        self.options, self.extent = options, extent
        self.runs: dict[str, Results] = {}
        self.sweeps: dict[str, Curves] = {}
        self.tables: list[tuple[str, Table]] = []
        self.began = time.monotonic()

    def run(self, names: list[str]) -> None:
        with ExitStack() as stack:
            field = Field(stack)
            pair = stack.enter_context(certificate()) if any(SCENARIOS[n].tls for n in names if n in SCENARIOS) else []
            for name in names:
                print(f"[{time.monotonic() - self.began:4.0f} s] {name}", file=sys.stderr, flush=True)
                if name in SCENARIOS:
                    self.scenario(name, field, pair)
                elif name in EXPERIMENTS:
                    self.runs[name] = EXPERIMENTS[name](field, self.extent)
                    self.tell(name, experiment(self.runs[name], report.UNITS.get(name, "CPU µs/message")))
                else:
                    self.sweeps[name] = SWEEPS[name](field, self.extent)
                    self.tell(name, sweep(self.sweeps[name]))

    def scenario(self, name: str, field: Field, pair: list[str]) -> None:
        scenario, options = scenario_of(name, self.options), self.options
        chosen = contenders(scenario, options.models, options.baselines, pair if scenario.tls else [])
        self.runs[name] = rounds(field, scenario, chosen, options.seconds, options.idle)
        self.tell(f"{name}: {scenario.title}", summary(scenario, self.runs[name]))

    def tell(self, title: str, table: Table) -> None:
        self.tables.append((title, table))
        show(title, table)


def write(folder: Path, plots_folder: Path, numbers: dict[str, Any]) -> None:
    """RESULTS.md and results.json into `folder`, the plots into the other."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(numbers) + "\n")
    (folder / "RESULTS.md").write_text(report.text(numbers["facts"], numbers["results"], numbers["sweeps"]))
    found = plots.draw(numbers["sweeps"], numbers["results"], plots_folder)
    told = [folder / "RESULTS.md", folder / "results.json", *found]
    print("Written:", *(str(path) for path in told), sep="\n  ")


def main() -> None:
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.numbers:
        folder = options.output or HERE
        write(folder, options.output or ROOT / "docs", json.loads(options.numbers.read_text()))
        return
    quick, whole = "quick" in options.what, "results" in options.what
    if quick:
        options.rounds, options.seconds, options.idle = 1, 0.1, 500
    names = list(dict.fromkeys(ALL if quick or whole else options.what))
    left_out = absent(options.models, options.baselines)
    for name, reason in left_out.items():
        print(f"left out: {name} ({reason})", file=sys.stderr)
    comparison = Comparison(options, QUICK if quick else WHOLE)
    comparison.run(names)
    told: dict[str, object] = facts(comparison.runs, time.monotonic() - comparison.began)
    if quick:
        told["extent"] = "a quick run, which tries the machinery: its figures say nothing"
    if left_out:
        told["left out"] = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    numbers = {"facts": told, "results": comparison.runs, "sweeps": comparison.sweeps}
    print("\n".join(f"{name}: {value}" for name, value in told.items()))
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")
    if options.markdown:
        tables = [f"{title}\n\n{markdown(table)}" for title, table in comparison.tables]
        options.markdown.write_text("\n".join(tables))
    if options.output or (whole and not quick):
        write(options.output or HERE, options.output or ROOT / "docs", numbers)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
