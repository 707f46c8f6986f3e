"""`pronghorn ctl publish`, `ask` and `groups`: the bus of a running server, by its bus socket.

Law: the server is found as every request of ctl finds it, and says where its bus socket is; the message itself goes to
the hub, and never through the supervisor.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import rich_click as click

from pronghorn.bus.client import Client, connect
from pronghorn.bus.errors import BusUnavailable
from pronghorn.bus.wire import LONGEST_PAYLOAD, LONGEST_QUESTION
from pronghorn.cli.ctl import request, whom
from pronghorn.cli.layers import takes_json
from pronghorn.errors import BadRequest, PronghornError, printable
from pronghorn.serving.connection_inquiry import MOST_ROWS

COMMANDS = ("publish", "ask", "groups")
NOBODY = 1  # exit status
NAME = "A name that connections join, as in device:4711."
PAYLOAD = "The payload: text, @FILE for what is in a file, - for standard input."
ONE = "To the connection that has joined last, and no other."
WAIT = "How long the answer may take, an hour at most. [default: 5s]"
LIMIT = "How many groups at most. [default: 1000]"
WHICH = "Which connections have joined PREFIX, which is a whole name then: id, peer, worker, and since when."
NONE_YET = BusUnavailable(
    "No handler of this server has used it yet.", "A connection joins by conn.join(name); see --bus and --bus-socket."
)


def register(group: click.Group) -> None:
    """Add the commands to `ctl`."""
    for command in (publish, ask, groups):
        group.add_command(command)


def takes(function: Callable[..., Any]) -> Callable[..., Any]:
    return takes_json(whom.takes_server(function))


def client_of(find: Callable[[], str]) -> Client:
    """A client of the bus of the server that is meant. Raises NoServer, BusUnavailable."""
    status = request.answer({"command": "status"}, find, None)
    if status.get("bus", {}).get("carrier") == "off":
        raise BusUnavailable("The server was started with --bus off.", "Start it without that.")
    for side in status.get("side_processes", ()):
        if side.get("name") == "bus":
            if not side.get("socket"):
                raise BusUnavailable("The server has no bus socket.", "Give it one with --bus-socket PATH.")
            return connect(f"unix:{side['socket']}")
    raise NONE_YET


def payload_of(text: str) -> bytes:
    """What stands for a payload on the command line, as bytes. Raises BadRequest."""
    try:
        if text == "-":
            raw = sys.stdin.buffer.read(LONGEST_PAYLOAD + 1)
        elif text.startswith("@"):
            with open(text[1:], "rb") as file:
                raw = file.read(LONGEST_PAYLOAD + 1)
        else:
            raw = text.encode("utf-8", "surrogateescape")
    except OSError as error:
        raise BadRequest(f"{text[1:] or text} cannot be read.", f"{error.strerror}.") from None
    return raw


def told(as_json: bool, call: Callable[[], int]) -> int:
    """The exit status of a command; with --json an error is printed as JSON."""
    try:
        return call()
    except PronghornError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"error": error.parts()}, indent=2))
        return error.exit_code


@click.command("publish", help="Send a message to all connections that have joined NAME. Exit status 1: there is none.")
@click.argument("group", metavar="NAME", help=NAME)
@click.argument("payload", metavar="TEXT|@FILE|-", help=PAYLOAD)
@click.option("--one", is_flag=True, help=ONE)
@takes
@click.pass_context
def publish(ctx: click.Context, /, group: str, payload: str, one: bool, as_json: bool, **values: Any) -> int:
    find = whom.finder(ctx, values)

    def call() -> int:
        raw = payload_of(payload)
        with client_of(find) as client:
            reached = client.publish(group, raw, to="one" if one else "all")
        if as_json:
            click.echo(json.dumps({"reached": reached}))
        else:
            click.echo(f"Reached {reached:,} connection{'s' * (reached != 1)}.")
        return 0 if reached else NOBODY

    return told(as_json, call)


@click.command("ask", help="Ask the connection that has joined NAME last, and print the answer as it comes.")
@click.argument("group", metavar="NAME", help=NAME)
@click.argument("payload", metavar="TEXT|@FILE|-", help=PAYLOAD)
@click.option("--timeout", metavar="DURATION", default="5s", help=WAIT)
@takes
@click.pass_context
def ask(ctx: click.Context, /, group: str, payload: str, timeout: str, as_json: bool, **values: Any) -> int:
    find = whom.finder(ctx, values)

    def call() -> int:
        raw, seconds = payload_of(payload), request.duration(timeout)
        if seconds > LONGEST_QUESTION:
            raise BadRequest(f"--timeout cannot be {timeout!r}.", "An answer may take an hour at most.")
        with client_of(find) as client:
            answer = client.ask(group, raw, seconds)
        if as_json:
            click.echo(json.dumps({"answer": answer.decode("utf-8", "backslashreplace")}))
        elif sys.stdout.isatty():
            click.echo(printable(answer.decode("utf-8", "backslashreplace")))
        else:
            sys.stdout.buffer.write(answer)
            sys.stdout.buffer.flush()
        return 0

    return told(as_json, call)


@click.command("groups", help="The names that connections have joined, and by how many; those that begin with PREFIX.")
@click.argument("prefix", metavar="[PREFIX]", default="")
@click.option("--limit", metavar="N", type=click.IntRange(1, 1000), default=1000, help=LIMIT)
@click.option("--connections", "whole", is_flag=True, help=WHICH)
@takes
@click.pass_context
def groups(ctx: click.Context, /, prefix: str, limit: int, whole: bool, as_json: bool, **values: Any) -> int:
    find = whom.finder(ctx, values)

    def call() -> int:
        with client_of(find) as client:
            if whole:
                return show_members(members_of(client, prefix, limit, find), prefix, as_json)
            found = client.groups(prefix, limit)
        if as_json:
            click.echo(json.dumps([{"name": name, "connections": count} for name, count in found], indent=2))
        else:
            for name, count in found:
                click.echo(f"{count:>8,}  {printable(name, kept='')}")
            if not found:
                click.echo("No connection of this server has joined anything.", err=True)
        return 0

    return told(as_json, call)


def members_of(client: Client, name: str, limit: int, find: Callable[[], str]) -> list[dict[str, Any]]:
    """The connections that have joined a name, as ctl connections knows them. Raises BadRequest, BusError."""
    if not name:
        raise BadRequest("--connections needs a NAME.", "It lists the connections of one group.")
    query = {"command": "connections", "limit": MOST_ROWS, "sort": "id"}
    known = {each["id"]: each for each in request.answer(query, find, None)["connections"]}
    found = []
    for pid, number, seconds in client.members(name, limit):
        row = known.get(f"{pid}-{number}", {})
        about = {"id": f"{pid}-{number}", "pid": pid, "joined": round(seconds, 3)}
        found.append({**about, "worker": row.get("worker"), "peer": row.get("peer")})
    return found


def show_members(rows: list[dict[str, Any]], name: str, as_json: bool) -> int:
    """The exit status."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return 0 if rows else NOBODY
    from pronghorn.cli.ctl.tables import span

    for each in rows:
        peer = printable(str(each["peer"] or "unknown"), kept="")
        at = f"worker {each['worker']}" if each["worker"] else f"process {each['pid']}"
        click.echo(f"{each['id']:>14}  {peer}, {at}, joined {span(each['joined'])} ago")
    if not rows:
        click.echo(f"No connection of this server has joined {name!r}.", err=True)
    return 0 if rows else NOBODY
