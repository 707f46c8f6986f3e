"""RESULTS.md: what a run has found, written whole from its numbers; nothing in it is edited by hand."""

from __future__ import annotations

import targets
from measuring import Results
from scaling import EXPERIMENTS, SWEEPS
from scenarios import SCENARIOS
from servers import ROOT
from tables import Table, experiment, figure, markdown, median, summary, sweep

Run = dict[str, dict[str, Results]]
HEAD = """# Results

Written by `make bench`; [README.md](README.md) says how to read it, and [docs/scale.md](../docs/scale.md) what follows
from it. Every server gives the same service, a reply in upper case. A cost is CPU time of the server's whole process
tree, user and system, children that have ended included; each figure is the median of rounds that were interleaved
over all servers. Absolute figures belong to this machine and this day; ratios travel further.

"""
DESIGNS = """## Server designs

After the table of W. R. Stevens, *UNIX Network Programming*, volume 1, chapter "Client/Server Design Alternatives":
each design of a server, for messages over connections that stay, for connections of one message, and its memory.
`pronghorn` is this tree as it is, with all guards; `compiled` is the optional compiled build, where there is one.

"""
TARGETS = """Each target is a ratio to another server of the same run; "medians" are the two costs. The targets for a
message were set when the only load client was the slow one, which left servers idle between messages; here each is
measured with both clients (`slow-client`, and the one in C that keeps servers busy all the time).

"""
GROUPS = {
    "C": ("c-epoll", "c-select"),
    "a bare loop in Python": ("bare-epoll", "bare-pool", "bare-prefork", "bare-fork"),
    "a library": (),
    "Pronghorn": ("pronghorn",),
    "Pronghorn, compiled": ("compiled",),
}
COLUMNS = {
    "messages": "µs/message",
    "clients-500": "500 clients",
    "depth-16": "16 in flight",
    "size-16k": "16 KiB",
    "connections": "µs/connection",
    "memory": "bytes/idle",
}
HEADINGS = {"workers": "One worker and two", "shares": "Shares of two workers", "crowd": "Beside idle connections"}
UNITS = {"shares": "larger share : smaller"}


def text(
    facts: dict[str, object], runs: dict[str, Results], sweeps: dict[str, dict[str, list[tuple[float, float]]]]
) -> str:
    parts = [HEAD, "".join(f"- {name}: {value}\n" for name, value in facts.items()), "\n"]
    parts += ["## Targets\n\n", TARGETS, markdown(targets.table(runs)), "\n"]
    if short := targets.reasons(runs):
        parts += ["What falls short, and why:\n\n", *(f"- {each}\n" for each in short), "\n"]
    if notes := sorted(path.name for path in (ROOT / "docs" / "decisions").glob("00[234]-*.md")):
        links = ", ".join(f"[{name}](../docs/decisions/{name})" for name in notes)
        parts.append(f"Where the microseconds and the bytes go, and what was tried and not kept: {links}.\n\n")
    parts += [DESIGNS, markdown(designs(runs)), "\n"]
    for name, results in runs.items():
        if name in EXPERIMENTS:
            parts += [f"## {HEADINGS[name]}\n\n{doc(EXPERIMENTS[name])}\n\n"]
            parts += [markdown(experiment(results, UNITS.get(name, "CPU µs/message"))), "\n"]
        else:
            scenario = SCENARIOS[name]
            parts += [
                f"## {scenario.title[0].upper()}{scenario.title[1:]}\n\n",
                markdown(summary(scenario, results)),
                "\n",
            ]
    parts += (
        ["## How cost grows\n\n", "The plots in [docs/scale.md](../docs/scale.md) are drawn from these.\n\n"]
        if sweeps
        else []
    )
    for name, curves in sweeps.items():
        parts += [
            f"### {name.replace('-', ' ').capitalize()}\n\n{doc(SWEEPS[name])}\n\n",
            markdown(sweep(curves)),
            "\n",
        ]
    return "".join(parts).rstrip() + "\n"


def doc(function: object) -> str:
    return " ".join((function.__doc__ or "").split())


def designs(runs: dict[str, Results]) -> Table:
    """All servers, by group: a column for each scenario."""
    names = dict.fromkeys(name for scenario in COLUMNS for name in runs.get(scenario, {}))
    lines = []
    for group in GROUPS:
        for name in sorted((each for each in names if group_of(each) == group), key=lambda each: cost(runs, each)):
            cells = [median(runs.get(scenario, {}), name) for scenario in COLUMNS]
            lines.append([name, group, *("" if cell is None else figure(cell) for cell in cells)])
    return [["server", "is", *COLUMNS.values()], *lines]


def cost(runs: dict[str, Results], name: str) -> float:
    return median(runs.get("messages", {}), name) or 0.0


def group_of(name: str) -> str:
    for group, members in GROUPS.items():
        if name in members or name.partition(" ")[0] in members:
            return group
    return "a library"


def client_share(runs: dict[str, Results]) -> str:
    """What the load client spends for a message beside the cheapest server of that scenario."""
    results = runs.get("messages", {})
    costs = {name: value for name in results if (value := median(results, name)) is not None}
    if not costs:
        return ""
    cheapest = min(costs, key=lambda name: costs[name])
    client = median(results, cheapest, "client") or 0.0
    spent = f"; it spends {figure(client)} µs of CPU a message"
    return f"{spent}, beside {figure(costs[cheapest])} of {cheapest}, the cheapest server"
