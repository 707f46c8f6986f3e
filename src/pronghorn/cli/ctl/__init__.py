"""`pronghorn ctl`: ask a running server, over its control socket.

Law: one command is one request; what it means is known to the server alone. The words for a person stand here and in
`_tables`, and with --json the server's own result is printed as it came. Which server is meant is `_whom`'s to say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import rich_click as click
from click.core import ParameterSource

from pronghorn.cli.ctl.whom import socket_of
from pronghorn.control import client
from pronghorn.control.protocol import COMMANDS
from pronghorn.errors import BadRequest, BadSetting, PronghornError
from pronghorn.settings import nearest
from pronghorn.settings.values import quantity

QUICK, CHANGE, DRAIN = 10.0, 300.0, 3600.0
PATIENCE = {"status": QUICK, "workers": QUICK, "resize": QUICK, "reload": CHANGE, "upgrade": CHANGE, "drain": DRAIN,
            "stop": DRAIN}  # fmt: skip
LONGEST = 10.0**7  # seconds
WAITS = {
    "reload": "Waiting for the new workers to be ready",
    "upgrade": "Waiting for the new program to be ready",
    "drain": "Waiting for open connections to finish",
    "stop": "Waiting for open connections to finish",
}
NOT_SERVING = 1  # an exit status
NONE_AT_ALL = "To have no worker at all: pronghorn ctl drain"


OPTIONS = (
    click.option("--json", "as_json", is_flag=True, help="The result, or the error, as JSON on standard output."),
    click.option(
        "--name", "-n", metavar="NAME", envvar="PRONGHORN_NAME", show_envvar=True,
        help="The server's name: what it was given as --name, or its first address. Not needed in a folder whose "
        "settings file tells it, or if only one is running.",
    ),
    click.option(
        "--socket", metavar="PATH", envvar="PRONGHORN_CONTROL_SOCKET", show_envvar=True,
        help="The control socket itself, as it was given to the server as --control-socket.",
    ),
    click.option(
        "--config", "-c", metavar="FILE", envvar="PRONGHORN_CONFIG", show_envvar=True,
        help="The server's settings file, for its name and its control socket. Without this, the one that serve would "
        "find in the working folder.",
    ),
    click.option(
        "--timeout", metavar="DURATION",
        help="How long to wait for the answer. Without it 10s; 5m for reload and upgrade, 1h for drain and stop.",
    ),
)  # fmt: skip


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
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise BadRequest(f"There is no command {args[0]!r} for a running server.", hint=nearest(args[0], COMMANDS))
        return super().resolve_command(ctx, args)


@click.group("ctl", cls=Group)
def command() -> None:
    """Ask a running server how it is, and change it. Each has --json, --name, --socket, --config and --timeout."""


def ask(help: str) -> Callable[[Callable[..., dict[str, Any]]], None]:
    """Makes a command of a function that returns what else the request holds; its name is the request's."""

    def register(function: Callable[..., dict[str, Any]]) -> None:
        what = function.__name__

        @click.pass_context
        def run(ctx: click.Context, /, as_json: bool, timeout: str | None, **values: Any) -> int:
            whom = {option: values.pop(option) for option in ("name", "socket", "config")}
            typed = {option for option in whom if ctx.get_parameter_source(option) is ParameterSource.COMMANDLINE}
            try:
                result = answer({"command": what, **function(**values)}, lambda: socket_of(whom, typed), timeout)
            except PronghornError as error:
                if not as_json:
                    raise
                click.echo(json.dumps({"error": error.parts()}, indent=2))
                return error.exit_code
            if as_json:
                click.echo(json.dumps(result, indent=2))
            else:
                tell(what, result)
            return NOT_SERVING if values.get("ready") and not serves(result) else 0

        run.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        for option in reversed(OPTIONS):
            run = option(run)
        command.command(what, help=help)(run)

    return register


@ask("How the server is: state, workers, connections, the last reload.")
@click.option("--ready", is_flag=True, help="The exit status is 1 unless the server is SERVING and a worker is ready.")
def status(ready: bool) -> dict[str, Any]:
    return {}


@ask("How each worker is.")
def workers() -> dict[str, Any]:
    return {}


@ask("Read settings and handler anew: new workers, then drain the old. What does not work changes nothing.")
def reload() -> dict[str, Any]:
    return {}


@ask("The same with a new program: after an update of Pronghorn or of Python.")
def upgrade() -> dict[str, Any]:
    return {}


@ask("Change the number of workers to N; those that are too many finish what they have.")
@click.argument("count", metavar="N", help="The number of workers.")
def resize(count: str) -> dict[str, Any]:
    if not (count.isascii() and count.isdigit() and 0 < int(count) < 10**6):
        raise BadRequest(f"There cannot be {count!r} workers.", "It takes a whole number, at least 1.", NONE_AT_ALL)
    return {"count": int(count)}


@ask("Let all workers finish and leave, while new clients wait; resize or reload goes on.")
def drain() -> dict[str, Any]:
    return {}


@ask("Let open connections finish, and end the server.")
def stop() -> dict[str, Any]:
    return {}


def answer(request: dict[str, Any], find: Callable[[], str], timeout: str | None) -> dict[str, Any]:
    """The result of the server whose socket `find` finds; raises NoServer, BadSetting and the server's own errors."""
    what = request["command"]
    seconds = duration(timeout) if timeout is not None else PATIENCE[what]
    path = find()
    result: dict[str, Any] = client.ask(path, request, seconds, lambda: waiting(what))
    if what == "stop":
        client.wait_until_gone(path)
    return result


def serves(status: dict[str, Any]) -> bool:
    """Whether a client that connects now is served, by the result of `status`."""
    return bool(status["state"] == "SERVING" and status["workers"]["ready"])


def duration(text: str) -> float:
    """Seconds; raises BadSetting."""
    try:
        seconds = quantity(text, "time")
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise BadSetting(f"--timeout cannot be {text!r}.", "It takes a duration, more than 0 (500ms, 30s, 2m, 1h).")
    return min(seconds, LONGEST)


def waiting(what: str) -> None:
    """Tells a person at a terminal why nothing happens."""
    if sys.stderr is not None and sys.stderr.isatty():
        words = WAITS.get(what, "Waiting for the server's answer")
        click.echo(f"{words} (Ctrl-C ends only the waiting).", err=True)


def tell(what: str, result: dict[str, Any]) -> None:
    """The result for a person."""
    from pronghorn.cli.ctl import tables

    if what == "status":
        tables.show_status(result)
    elif what == "workers":
        tables.show_workers(result["workers"])
    else:
        tables.say(sentence(what, result))


def sentence(what: str, result: dict[str, Any]) -> str:
    """What has been done, in one sentence or two."""
    if what == "reload":
        later = result.get("later") or ()
        end = f" Only the next start takes these settings: {', '.join(later)}." if later else ""
        if old := result.get("accepting"):
            end += f" {old} old worker{'s' if old > 1 else ''} may still accept."
        return f"Reloaded in {result['seconds']:.1f} s: generation {result['generation']} serves.{end}"
    if what == "upgrade":
        return f"Upgraded: process {result['pid']} serves."
    if what == "resize":
        count = result["workers"]
        return f"Resized: {count} worker{'s' if count > 1 else ''}."
    if what == "drain":
        return "Drained: no worker is left, and new clients wait. To go on: pronghorn ctl resize N"
    cut = result.get("cut", 0)
    end = f"; the drain deadline cut {cut} connection{'s' if cut > 1 else ''}" if cut else ""
    return f"Stopped{end}."
