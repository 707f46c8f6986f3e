"""`pronghorn doctor`: what this machine gives a server, and what should be mended.

Law: facts.py reads, advice.py judges, and here both are shown. Nothing is changed.
"""

from __future__ import annotations

from typing import Any

import msgspec
import rich_click as click

from pronghorn.cli.ctl import whom
from pronghorn.cli.doctor.advice import Line, advice
from pronghorn.cli.doctor.facts import gathered
from pronghorn.cli.layers import print_json, takes_json
from pronghorn.errors import PronghornError, printable
from pronghorn.settings import layers

WELL, TO_MEND = 0, 1
MARKS = {"ok": "ok  ", "warn": "WARN"}
INDENT = 7


@click.command("doctor", short_help="Look for limits and settings of this machine that are too low")
@whom.takes_server
@takes_json
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **values: Any) -> int:
    """Look at the limits and settings of this machine, of this container, and of the server that runs, if one does:
    what is well, and how to mend what is not. The exit status is 1 if something is to be mended. Run it as the server's
    user, where the server runs."""
    backlog = _backlog(values.get("config"))
    try:
        server: str | None = whom.finder(ctx, values)()
    except PronghornError:
        server = None
    lines = advice(gathered(backlog, server))
    if as_json:
        print_json([msgspec.structs.asdict(line) for line in lines])
    else:
        show(lines)
    return TO_MEND if any(line.state == "warn" for line in lines) else WELL


def show(lines: list[Line]) -> None:
    """One line for each thing; what mends it, below."""
    widest = max(len(line.name) for line in lines)
    for line in lines:
        found = printable(line.found, kept="")
        click.echo(
            f"{click.style(MARKS[line.state], fg='yellow' if line.state == 'warn' else 'green')}  "
            f"{line.name:<{widest}}  {found}"
        )
        if line.mend:
            click.echo(f"{'':<6}{'':<{widest}}  -> {line.mend}")
    count = sum(line.state == "warn" for line in lines)
    click.echo(f"{count} thing{'s' * (count != 1)} to mend." if count else "Nothing is to be mended.")


def _backlog(config: str | None) -> int:
    """What the settings file says, if there is one."""
    try:
        file = config or layers.find()
        value = layers.peek(file, ("backlog",)).get("backlog", 0) if file else 0
        return int(value)
    except (PronghornError, TypeError, ValueError):
        return 0
