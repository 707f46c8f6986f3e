"""Filters of connections on the command line: which `ctl connections` and `ctl kill-connection` mean."""

from __future__ import annotations

from typing import Any, get_args

import rich_click as click

from pronghorn.cli.ctl import request
from pronghorn.errors import BadRequest, nearest
from pronghorn.serving.connection_inquiry import MOST_ROWS, Peers, Sort
from pronghorn.serving.connection_rows import State

STATES, SORTS = get_args(State), get_args(Sort)
SHOWN = 100
FILTERS = (
    click.option("--peer", metavar="ADDRESS", multiple=True, help="From this address or network (CIDR), or unix."),
    click.option("--listener", metavar="NAME", help="Of this listener."),
    click.option("--worker", metavar="N", type=int, help="Of this worker: the number of its slot, or its process id."),
    click.option("--older", metavar="DURATION", help="Accepted so long ago or longer."),
    click.option("--idle", metavar="DURATION", help="Without a byte in either direction for so long or longer."),
    click.option("--state", metavar="STATE", help=f"In this state: {', '.join(STATES)}."),
    click.option("--field", metavar="NAME=VALUE", multiple=True, help="With this field of the handler's (conn.log)."),
)
ORDER = (
    click.option("--sort", metavar="KEY", help=f"In this order: {', '.join(SORTS)}. [default: age]"),
    click.option("--reverse", is_flag=True, help="In the opposite order."),
    click.option("--limit", metavar="N", type=int, help=f"So many, at most {MOST_ROWS:,}. [default: {SHOWN}]"),
)


def taken(values: dict[str, Any]) -> dict[str, Any]:
    """The filters and the order out of a command's values, as the request has them; raises BadRequest, BadSetting."""
    found: dict[str, Any] = {}
    if peers := values.pop("peer", ()):
        found["peer"] = [_peer(each) for each in peers]
    if fields := values.pop("field", ()):
        found["fields"] = dict(_field(each) for each in fields)
    for name in ("older", "idle"):
        if text := values.pop(name, None):
            found[name] = request.duration(text, f"--{name}")
    if state := values.pop("state", None):
        found["state"] = _one_of("--state", state.upper().replace("-", "_").replace(" ", "_"), STATES)
    if sort := values.pop("sort", None):
        found["sort"] = _one_of("--sort", sort.lower().replace("-", "_"), SORTS)
    if listener := values.pop("listener", None):
        found["listener"] = listener
    if (worker := values.pop("worker", None)) is not None:
        found["worker"] = _from_one("--worker", worker, 2**31)
    if values.pop("reverse", False):
        found["reverse"] = True
    if (limit := values.pop("limit", None)) is not None:
        found["limit"] = _from_one("--limit", limit, MOST_ROWS)
    return found


def _peer(text: str) -> str:
    try:
        Peers([text])
    except ValueError as error:
        hint = "For example: --peer 192.0.2.7, --peer 2001:db8::/32, --peer unix"
        raise BadRequest(f"--peer cannot be {text!r}.", f"{error}.", hint) from None
    return text


def _field(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise BadRequest(f"--field cannot be {text!r}.", "It takes NAME=VALUE.", "For example: --field device=4711")
    return name, value


def _one_of(option: str, word: str, words: tuple[str, ...]) -> str:
    if word not in words:
        raise BadRequest(f"{option} cannot be {word!r}.", hint=nearest(word, words))
    return word


def _from_one(option: str, number: int, most: int) -> int:
    if not 1 <= number <= most:
        raise BadRequest(f"{option} cannot be {number}.", f"It takes 1 to {most:,}.")
    return number
