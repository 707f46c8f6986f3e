"""All that one call of `pronghorn bench` has found, with the facts of the machine: for JSON, and for the report."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from pronghorn import __version__
from pronghorn.bench import words
from pronghorn.bench.advice import Advice
from pronghorn.bench.measuring import Plan
from pronghorn.bench.results import ENDED, LOAD, Cell
from pronghorn.builds import build
from pronghorn.errors import printable
from pronghorn.system.processors import processors

ENOUGH = 1000  # messages, of which one is beyond p99.9
FORMAT = 1  # of the JSON: a key that is renamed or goes makes it one more


class Findings(msgspec.Struct, kw_only=True):
    """What was asked, what was measured, and what follows."""

    handler: str
    command: str
    """The line of a shell that does the same again."""
    plan: Plan
    machine: dict[str, str]
    began: str
    talk: str = ""
    cells: list[Cell] = []
    advice: Advice = Advice("", "")
    skipped: dict[str, str] = {}
    """Models that were asked for and were not measured, and why."""
    failed: dict[str, str] = {}
    """Contenders that could not be measured to the end, and why."""
    unknown: dict[str, str] = {}
    """Contenders whose processor time and memory are not known, and why."""
    broken: list[str] = []
    """The bounds of `--fail-if` that were broken."""
    interrupted: bool = False
    stopped: str = ""
    """The error that ended the measuring before its time."""
    status: int = 1
    """The exit status for that error."""

    @property
    def names(self) -> list[str]:
        """The contenders that there are cells of, in order."""
        return list(dict.fromkeys(cell.name for cell in self.ordered()))

    def ordered(self) -> list[Cell]:
        """The cells by contender, as they were named, and clients."""
        places = {each.name: place for place, each in enumerate(self.plan.contenders)}
        return sorted(self.cells, key=lambda cell: (places[cell.name], cell.clients))

    @property
    def counted(self) -> str:
        """What is counted each second."""
        return "connections" if self.plan.connect else "messages"

    def loop(self) -> str:
        """How the load was made, as a sentence's beginning."""
        plan = self.plan
        what = "a connection for each message" if plan.connect else f"{plan.depth} under way on each connection"
        if plan.connect or plan.depth == 1:
            what = what if plan.connect else "one message under way on each connection"
        if plan.rate:
            return (
                f"Open loop, {plan.rate:,.0f} {self.counted} a second, {what}: latencies count from when each message "
                "was due (corrected for coordinated omission)"
            )
        return (
            f"Closed loop, {what}: a client sends when its reply is there, so a server that stalls is asked less "
            "(--rate measures what users would wait)"
        )

    def notes(self) -> list[str]:
        """What the table leaves open, as sentences."""
        found = [f"{name}: CPU and memory are not known, since {why}." for name, why in self.unknown.items()]
        cells = self.ordered()
        if any(cell.limit == LOAD for cell in cells):
            found.append(
                "* The load processes, and not the server, had no time left: the server can do at least so many. CPU "
                f"per {self.counted[:-1]} is right all the same."
            )
        found += [note for cell in cells for note in _notes(cell)]
        few = [cell for cell in cells if cell.rounds and 0 < min(each.latencies.count for each in cell.rounds) < ENOUGH]
        if few:
            found.append(
                f"In {len(few)} of {len(cells)} rows a round had fewer than {ENOUGH:,} {self.counted}: p99.9 is the "
                f"longest latency there, and so is p99 below {ENOUGH // 10}. A longer --duration has more."
            )
        late = [cell for cell in cells if cell.late >= words.MOMENT]
        if late:
            worst = max(late, key=lambda cell: cell.late)
            where = f"{worst.name} with {words.clients(worst.clients)}, 99 % within {words.duration(worst.late)}"
            found.append(
                f"In {len(late)} of {len(cells)} rows the load processes themselves sent late: this machine is busy. "
                f"The worst is {where}."
            )
        return found

    def plain(self) -> dict[str, Any]:
        """For JSON; times in seconds, memory in bytes."""
        plan = self.plan
        return {
            "format": FORMAT,
            "handler": self.handler,
            "command": self.command,
            "began": self.began,
            "machine": self.machine,
            "plan": {
                "contenders": [each.name for each in plan.contenders],
                "clients": plan.clients,
                "size": plan.size,
                "depth": plan.depth,
                "duration": plan.seconds,
                "warm_up": plan.warm_up,
                "rounds": plan.rounds,
                "connect": plan.connect,
                "rate": plan.rate,
                "timeout": plan.timeout,
                "workers": {each.name: each.workers for each in plan.contenders if each.layers is not None},
            },
            "talk": self.talk,
            "cells": [cell.plain() for cell in self.ordered()],
            "recommended": {
                "model": self.advice.model or None,
                "sentence": self.advice.sentence,
                "ruled_out": self.advice.ruled_out,
            },
            "skipped": self.skipped,
            "failed": self.failed,
            "cpu_unknown": self.unknown,
            "broken": self.broken,
            "interrupted": self.interrupted,
            "stopped": self.stopped,
        }


def _notes(cell: Cell) -> Iterator[str]:
    where = f"{cell.name}, {words.clients(cell.clients)}"
    for kind, (count, example) in cell.errors.items():
        told = example if kind == ENDED else f"{count:,} x {kind}, first: {example}"
        yield f"{where}: {printable(told, 300, kept='')}."
    if cell.unserved:
        few = "a reply; a server that serves few at a time lets others wait"
        yield f"{where}: {cell.unserved:,} never got {'a right reply' if cell.errors else few}."
    elif cell.behind >= words.MOMENT and cell.unanswered:
        idle = cell.cpu is not None and not cell.limit
        yield (
            f"{where}: behind by {words.duration(cell.behind)} at the end; {cell.unanswered:,} messages had no reply "
            "and count with the time that they are late."
            + " The server's processor was not the limit: its handler waits, or --clients are too few."
            * idle
        )


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def machine() -> dict[str, str]:
    """The facts of this machine that a result depends on, by their names."""
    there = processors()
    load = os.getloadavg()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {
        "Processor": processor_name(),
        "Processors": f"{there.usable} usable: {there.why}",
        "Kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": python + (" without a GIL" if not getattr(sys, "_is_gil_enabled", lambda: True)() else ""),
        "Pronghorn": f"{__version__}, {build()}",
        "Load before": ", ".join(f"{each:.2f}" for each in load) + " (1, 5, 15 min)",
    }


def processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith(("model name", "Model")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
