"""The options of `pronghorn bench`, as a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import rich_click as click

LOAD, SERVERS, OUTPUT = "Load", "Servers", "Output"
TARGET = "A handler, as serve takes it, or a server that runs: [tcp://][HOST]:PORT or unix:PATH. [default: upper]"


class Row(NamedTuple):
    """One option: its names, its default, and its help. The default of a flag is False, that of what may be repeated
    an empty tuple; None is for a number that may be missing."""

    names: str
    default: Any
    metavar: str
    panel: str
    help: str


OPTIONS = (
    Row("--models", "auto", "A,B,C", SERVERS, "Models, or all; auto: the usual ones for the handler's style."),
    Row("--workers -w", None, "N", SERVERS, "Of each model's server; without this as many as serve would have."),
    Row(
        "--against",
        (),
        "[NAME=]CMD",
        SERVERS,
        "Another server beside the models; it gets a port as {port} and in the variable PORT. Repeatable.",
    ),
    Row("--clients", "1,8,64,512", "N,N", LOAD, "Connections at the same time: a row of the table for each number."),
    Row("--size", "64", "SIZE", LOAD, "Of a message, its newline included."),
    Row("--depth", 1, "N", LOAD, "Messages under way on each connection."),
    Row("--duration -d", "3s", "DURATION", LOAD, "Of each row, in each round."),
    Row("--warm-up", "500ms", "DURATION", LOAD, "Before each, not measured."),
    Row("--rounds", 1, "N", LOAD, "Over all rows, one after the other; medians are shown."),
    Row("--connect", False, "", LOAD, "A connection for each message: connections a second."),
    Row(
        "--rate",
        "",
        "N",
        LOAD,
        "Open loop: N messages a second in all (5000, 5k), due at fixed times; a latency counts from when its message "
        "was due. Without it each client sends when its reply is there.",
    ),
    Row("--timeout", "10s", "DURATION", LOAD, "For a reply, and for a connection; longer is an error."),
    Row("--loads", "auto", "N", LOAD, "Load processes; auto: more than one where one is the limit."),
    Row(
        "--script",
        "",
        "FILE",
        LOAD,
        "A Python file that speaks your protocol: request(n) says what to send, reply(n, received) how many bytes the "
        "reply takes.",
    ),
    Row("--message", "", "TEXT", LOAD, r"What to send (\n, \r, \x00 and so on), instead of a line of --size bytes."),
    Row(
        "--fail-if",
        (),
        "EXPR",
        OUTPUT,
        "Exit status 1 if this is so: 'p99>20ms', 'throughput<50k', 'errors>0', 'epoll:cpu>15us'. Repeatable.",
    ),
    Row("--json", "", "PATH", OUTPUT, "Everything as JSON; - is standard output."),
    Row("--html", "", "PATH", OUTPUT, "A report in one file, with plots."),
    Row("--plots", "", "DIR", OUTPUT, "The plots alone, as SVG and PNG."),
)
RENAMED = {"--json": "json_path", "--html": "html_path"}


def takes_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command its argument and these options."""
    for row in reversed(OPTIONS):
        names = row.names.split()
        names += [RENAMED[names[0]]] if names[0] in RENAMED else []
        flag = row.default is False
        function = click.option(
            *names,
            default=None if row.default == () else row.default,
            type=int if row.default is None else None,
            metavar=row.metavar or None,
            is_flag=flag,
            multiple=row.default == (),
            show_default=bool(row.default),
            help=row.help,
            panel=row.panel,
        )(function)
    return click.argument("target", required=False, metavar="[HANDLER|ADDRESS]", help=TARGET)(function)
