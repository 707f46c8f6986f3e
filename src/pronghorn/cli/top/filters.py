"""The filter of `pronghorn top`, as it is typed, and the order by name."""

from __future__ import annotations

from typing import Any

from pronghorn.cli.ctl.filters import SORTS, STATES
from pronghorn.errors import BadSetting, nearest
from pronghorn.serving.connection_inquiry import Peers
from pronghorn.settings.values import quantity

NAMES = {"rtt": "rtt_us", "in": "bytes_in", "out": "bytes_out", "retr": "retransmits", "sndq": "send_queue"} | {
    "rcvq": "receive_queue",
    "msgs": "messages",
}
HINT = "For example: 192.0.2.0/24 state=open age>10m device=4711"


def parsed(text: str) -> dict[str, Any]:
    """The filters of a request, from words between blanks, all of which have to fit: an address or a network (several:
    one of them), `listener=NAME`, `worker=SLOT`, `state=STATE`, `age>DURATION`, `idle>DURATION`, and `NAME=VALUE` for
    what the handler has set (`fields.NAME=VALUE` where NAME is one of these words). Raises BadSetting."""
    found: dict[str, Any] = {}
    for word in text.split():
        name, mark, value = word.partition(">")
        if mark and name in ("age", "idle"):
            found["older" if name == "age" else name] = _seconds(word, value)
            continue
        name, mark, value = word.partition("=")
        if not mark or name == "peer":
            found["peer"] = [*found.get("peer", ()), _peer(value if mark else word)]
        elif name == "listener":
            found[name] = value
        elif name == "worker":
            if not value.isdecimal():
                raise BadSetting(f"The filter {word!r} names no worker.", "It takes a slot or a process id.", HINT)
            found[name] = int(value)
        elif name == "state":
            found[name] = _state(word, value)
        else:
            found.setdefault("fields", {})[name.removeprefix("fields.")] = value
    return found


def order(text: str) -> str:
    """What connections are put in order by, from the name of a column or of a field of the control socket. Raises
    BadSetting."""
    name = text.lower().replace("-", "_")
    name = NAMES.get(name, name)
    if name not in SORTS:
        words = (*(each for each in SORTS if each != "rtt_us"), "rtt")
        raise BadSetting(f"Connections cannot be sorted by {text!r}.", hint=nearest(text, words))
    return name


def _peer(text: str) -> str:
    try:
        Peers([text])
    except ValueError as error:
        raise BadSetting(f"The filter {text!r} names no peer.", f"{error}.", HINT) from None
    return text


def _seconds(word: str, value: str) -> float:
    try:
        return quantity(value, "time")
    except ValueError:
        raise BadSetting(f"The filter {word!r} has no duration.", "It takes 500ms, 30s, 2m, 1h.", HINT) from None


def _state(word: str, value: str) -> str:
    state = value.upper().replace("-", "_")
    if state not in STATES:
        raise BadSetting(f"The filter {word!r} names no state.", hint=nearest(state, STATES).replace("'", ""))
    return state
