"""`pronghorn top`: a running server while it runs, on a full screen or as plain text.

Law: the server is asked over its control socket and in no other way, so that top sees what `pronghorn ctl` sees, and
needs the same permission. asking.py asks, model.py makes rates of two answers, columns.py and summary.py make words;
screen.py (with the package textual) and plain.py show them. What only the screen needs is imported for the screen.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import rich_click as click

from pronghorn.cli.ctl import whom
from pronghorn.cli.layers import takes_json
from pronghorn.errors import BadSetting, MissingExtra, PronghornError
from pronghorn.settings.values import quantity

SHORTEST, LONGEST = 0.1, 3600.0  # seconds of an interval
SORT = (
    "What connections are sorted by: age, idle, bytes, in, out, messages, rtt, retransmits, send_queue, receive_queue, "
    "peer or id. The greatest first."
)
FILTER = (
    "Only these connections: words between blanks, an address or a network, listener=NAME, worker=SLOT, state=open, "
    "age>10m, idle>30s, or NAME=VALUE for what the handler has set."
)


@click.command("top")
@click.option("--plain", is_flag=True, help="Plain text, without a full screen; so is any output that is no terminal.")
@click.option("--once", is_flag=True, help="One frame, after two answers, and the end; plain text too.")
@takes_json
@click.option("--interval", "-d", default="1s", show_default=True, metavar="DURATION", help="Between two questions.")
@click.option("--sort", "-s", "order", default="age", show_default=True, metavar="COLUMN", help=SORT)
@click.option("--reverse", "-r", is_flag=True, help="The smallest first.")
@click.option("--filter", "-f", "text", default="", metavar="WORDS", help=FILTER)
@click.option(
    "--rows", default=100, show_default=True, metavar="N", type=click.IntRange(1, 10_000), help="Connections, at most."
)
@whom.takes_server
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **values: Any) -> int:
    """Watch a running server: its listeners, workers and connections, and the rates of the last seconds.

    On the screen, ? tells the keys: among them / to filter, < and > to sort, Enter for all about a connection, k to end
    it, q to leave.
    """
    try:
        return _run(whom.finder(ctx, values), as_json, **values)
    except PronghornError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"error": error.parts()}))
        return error.exit_code


def _run(
    find: Any, as_json: bool, plain: bool, once: bool, interval: str, order: str, reverse: bool, text: str, rows: int
) -> int:
    from pronghorn.cli.top import filters
    from pronghorn.cli.top.asking import Asking
    from pronghorn.cli.top.model import View

    seconds = _seconds(interval)
    asking = Asking(find, View(filters.order(order), reverse, filters.parsed(text), rows))
    if not (plain or once or as_json) and _full_screen():
        try:
            from pronghorn.cli.top.screen import show
        except ModuleNotFoundError as error:
            raise missing(error) from None
        return show(asking, seconds, text)
    from pronghorn.cli.top.plain import print_frames

    print_frames(asking, seconds, text, once=once, as_json=as_json)
    return 0


def missing(error: ModuleNotFoundError) -> PronghornError:
    """What to say without the package of the full screen."""
    hint = "pip install textual (or: 'pronghorn[tui]'). Without it: pronghorn top --plain"
    return MissingExtra(f"The full screen needs the package {error.name}.", "It is not installed.", hint)


def _full_screen() -> bool:
    """Whether both ends are a terminal that can move its cursor."""
    streams = (sys.__stdin__, sys.__stdout__)
    return os.environ.get("TERM", "dumb") != "dumb" and all(each is not None and each.isatty() for each in streams)


def _seconds(interval: str) -> float:
    try:
        seconds = quantity(interval, "time")
    except ValueError:
        seconds = 0.0
    if not SHORTEST <= seconds <= LONGEST:
        raise BadSetting(f"--interval cannot be {interval!r}.", "It takes a duration, 100ms to 1h.")
    return seconds
