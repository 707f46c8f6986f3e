"""`pronghorn ctl`: ask a running server, over its control socket.

Law: one command is one request; what the request means is known to the server alone. request.py has their help and
their patience, tables.py shows a result to a person, and with --json the server's own result is printed as it came.
whom.py finds the server that is meant.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import rich_click as click

from pronghorn.cli.ctl import bus, filters, kill, request, stats, whom
from pronghorn.cli.layers import takes_json
from pronghorn.control.protocol import COMMANDS
from pronghorn.errors import BadRequest, PronghornError, nearest
from pronghorn.settings.logs import LOG_LEVELS

NOT_SERVING = NOT_ENDED = 1  # exit statuses

READY = "The exit status is 1 unless the server is SERVING and a worker is ready."
INTERVAL = f"Over how long the rates are taken. [default: {stats.SECONDS:g}s]"
PARAMETERS = {
    "status": (click.option("--ready", is_flag=True, help=READY),),
    "resize": (click.argument("count", metavar="N", help="The number of workers."),),
    "stats": (click.option("--interval", metavar="DURATION", help=INTERVAL),),
    "log-level": (click.argument("level", metavar="LEVEL", help=f"One of {', '.join(LOG_LEVELS)}."),),
    "connections": (*filters.FILTERS, *filters.ORDER),
    "kill-connection": kill.PARAMETERS,
}
ARGUMENTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "resize": lambda values: {"count": request.count(values.pop("count"))},
    "log-level": lambda values: {"level": request.level(values.pop("level"))},
    "connections": filters.taken,
}
"""What a request carries beside its command."""
TIMEOUT = (
    f"How long to wait for the answer. Without it {request.QUICK:g}s; {request.CHANGE / 60:g}m for reload and upgrade, "
    f"{request.DRAIN / 3600:g}h for drain and stop."
)
OPTIONS = (
    takes_json,
    *whom.OPTIONS,
    click.option("--timeout", metavar="DURATION", help=TIMEOUT),
)


class Group(click.RichGroup):
    """What can be asked; a wrong word gets the nearest right one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            word = error.option_name
            for option in self.commands["status"].params:
                if word in option.opts:
                    example = f"pronghorn ctl status {word} {option.metavar or ''}".rstrip()
                    hint = f"For example: {example}"
                    raise BadRequest(f"{word} stands behind the command.", hint=hint) from None
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *bus.COMMANDS]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            raise BadRequest(f"There is no command {args[0]!r} for a running server.", hint=nearest(args[0], known))
        return super().resolve_command(ctx, args)


@click.group("ctl", cls=Group)
def command() -> None:
    """Ask a running server how it is, and change it. Each has --json, --name, --socket, --config and --timeout."""


def _add(what: str) -> None:
    """The command that sends the request of this name."""

    @click.pass_context
    def run(ctx: click.Context, /, as_json: bool, timeout: str | None, **values: Any) -> int:
        find = whom.finder(ctx, values)
        try:
            if what == "kill-connection":
                result = kill.kill(values, find, timeout)
            elif what == "stats":
                result = stats.taken(values, find, timeout)
            else:
                arguments = ARGUMENTS[what](values) if what in ARGUMENTS else {}
                result = request.answer({"command": what, **arguments}, find, timeout)
        except PronghornError as error:
            if not as_json:
                raise
            click.echo(json.dumps({"error": error.parts()}, indent=2))
            return error.exit_code
        if as_json:
            click.echo(json.dumps(result, indent=2))
        else:
            _show(what, result)
        if what == "kill-connection":
            return 0 if result["ended"] and not (result["gone"] or result["late"]) else NOT_ENDED
        return NOT_SERVING if values.get("ready") and not request.serves(result) else 0

    for option in reversed((*PARAMETERS.get(what, ()), *OPTIONS)):
        run = option(run)
    command.command(what, help=request.REQUESTS[what].help)(run)


def _show(what: str, result: dict[str, Any]) -> None:
    """The result for a person: only here is rich needed."""
    from pronghorn.cli.ctl import connection_table, stat_tables, tables

    if what == "connections":
        connection_table.show_connections(result)
    elif what == "stats":
        stat_tables.show_stats(result)
    elif what == "kill-connection":
        tables.say(kill.sentence(result))
    else:
        tables.show(what, result)


for _what in COMMANDS:
    _add(_what)
bus.register(command)
