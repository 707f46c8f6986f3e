"""`pronghorn ctl kill-connection`: connections are ended by their ids, or all that fit, after a question.

Law: what fits is looked up first, told, and ended by id: a connection that comes meanwhile is not ended by an answer
that was given before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import rich_click as click

from pronghorn.cli.ctl import filters, request
from pronghorn.control.protocol import MOST_IDS
from pronghorn.errors import BadRequest, printable
from pronghorn.serving.connection_inquiry import MOST_ROWS

PARAMETERS = (
    click.argument("ids", metavar="[ID]...", nargs=-1, help="Ids of connections, as ctl connections and the log say."),
    *filters.FILTERS,
    click.option("--yes", "-y", is_flag=True, help="Do not ask."),
)
EXAMPLES = "For example: pronghorn ctl kill-connection 12411-37, or --peer 192.0.2.7, or --idle 1h"
TOLD = 10  # ids by name
NONE: dict[str, Any] = {"ended": [], "gone": [], "late": [], "silent": []}


def kill(values: dict[str, Any], find: Callable[[], str], timeout: str | None) -> dict[str, Any]:
    """Ask for the end of what `values` mean: the result of the request. Raises BadRequest, NoServer, and Abort of
    click's when the answer is no."""
    ids, sure = list(values.pop("ids")), values.pop("yes")
    query = filters.taken(values)
    if bool(ids) is bool(query):
        what = "Ids and filters do not go together." if ids else "Which connections shall end?"
        raise BadRequest(what, "It takes ids, or filters that say which.", EXAMPLES)
    silent: list[Any] = []
    if query:
        found = request.answer({"command": "connections", "limit": MOST_ROWS, **query}, find, timeout)
        ids, silent = [each["id"] for each in found["connections"]], found["silent"]
        if ids and not sure:
            _ask(found["connections"], found["matched"])
    whole = {key: [*value] for key, value in NONE.items()}
    for start in range(0, len(ids), MOST_IDS):
        part = ids[start : start + MOST_IDS]
        result = request.answer({"command": "kill-connection", "ids": part}, find, timeout)
        for key in whole:
            whole[key] += result[key]
    whole["silent"] += [each for each in silent if each["pid"] not in {one["pid"] for one in whole["silent"]}]
    return whole


def _ask(rows: list[dict[str, Any]], matched: int) -> None:
    count = f"{len(rows):,} connection{'s' * (len(rows) != 1)}"
    if sys.stdin is None or not sys.stdin.isatty():
        raise BadRequest(f"{count} would end.", "Nobody is there to be asked.", "If that is meant: --yes")
    for row in rows[:TOLD]:
        click.echo(printable(f"  {row['id']} from {row['peer']}", kept=""), err=True)
    if len(rows) > TOLD:
        click.echo(f"  and {len(rows) - TOLD:,} more", err=True)
    more = f" ({matched:,} fit; those beyond stay)" if matched > len(rows) else ""
    click.confirm(f"End {count}{more}?", abort=True, err=True)


def sentence(result: dict[str, Any]) -> str:
    """What has been done."""
    ended = len(result["ended"])
    said = [f"Ended {ended:,} connection{'s' * (ended != 1)}." if ended else "No connection was ended."]
    if result["gone"]:
        said.append(f"Not open: {_names(result['gone'])}.")
    if result["late"]:
        said.append(f"Their worker has not answered in time: {_names(result['late'])}. See: pronghorn ctl workers")
    elif result["silent"]:
        pids = ", ".join(str(each["pid"]) for each in result["silent"])
        said.append(f"Not asked, since it does not answer: the worker of process {pids}. See: pronghorn ctl workers")
    return " ".join(said)


def _names(ids: list[str]) -> str:
    shown = ", ".join(printable(str(each)) for each in ids[:TOLD])
    return shown + (f" and {len(ids) - TOLD} more" if len(ids) > TOLD else "")
