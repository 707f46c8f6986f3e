"""`pronghorn why`: who holds an address, in which state, for how much longer, and what to do about it.

Law: nothing is bound for longer than it takes to see that it can be, nothing ever listens, and no process is touched.
The exit status is the answer, for scripts: 0 free, 1 taken, 2 not known.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn

import msgspec
import rich_click as click

from pronghorn.errors import BadSetting, CannotBind, PronghornError, printable
from pronghorn.listening import why, why_words
from pronghorn.listening.addresses import FORMS as BIND_FORMS
from pronghorn.listening.addresses import Bind, spoken
from pronghorn.listening.why import Finding, Owner, Verdict
from pronghorn.listening.why_words import Told
from pronghorn.system.process_facts import user_name

EXIT = {Verdict.FREE: 0, Verdict.TAKEN: 1, Verdict.UNKNOWN: 2}
FORMS = "Write PORT, HOST:PORT, [IPV6]:PORT, unix:PATH or unix:@NAME."
PAUSE = 0.5  # seconds between two looks
MOST_ROWS = 64


class BadAddress(PronghornError):
    """What was asked about is no address, or has a name that does not resolve."""

    exit_code = 2


@click.command("why")
@click.argument("address", metavar="[HOST:]PORT|unix:PATH")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch, one line for each change.")
@click.option("--watch", is_flag=True, help="Go on, and print each change, until Ctrl-C.")
def command(address: str, as_json: bool, watch: bool) -> int:
    """Tell why an address cannot be bound: who holds it, in which state, for how much longer, and what to do. A bare
    PORT is that of every interface. The exit status is 0 if it is free, 1 if it is taken or cannot be had, 2 if that
    cannot be told; with --watch, by the last look."""
    try:
        bind = read(address)
        if watch:
            return watched(bind, as_json)
        found = looked(bind)
    except PronghornError as error:
        if not as_json:
            raise
        click.echo(msgspec.json.format(msgspec.json.encode({"error": error.parts()}), indent=2).decode())
        return error.exit_code
    words = why_words.told(found)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(answer(found, words)), indent=2).decode())
    else:
        click.echo(text(words))
    return EXIT[why.decisive(found).verdict]


def read(address: str) -> Bind:
    """The address that was typed; raises BadAddress."""
    try:
        return why.resolved(address)[0]
    except BadSetting as error:
        raise BadAddress(f"{printable(address, 200, kept='')!r} is no address.", error.why, _hint(error)) from None
    except CannotBind as error:
        raise BadAddress("There is no such address.", error.why, error.hint) from None


def _hint(error: BadSetting) -> str:
    """What to write instead, in place of the forms of --bind."""
    return error.hint if error.hint.startswith("Write ") and error.hint != BIND_FORMS else FORMS


def looked(bind: Bind) -> list[Finding]:
    try:
        return why.examine(bind)
    except CannotBind as error:
        raise BadAddress("There is no such address.", error.why, error.hint) from None


def text(words: Told) -> str:
    """The answer for a person: a sentence a line, and the command last, to copy."""
    lines = [words.what, *words.why, *([words.advice] if words.advice else [])]
    return "\n".join([*lines, *([f"    {words.command}"] if words.command else [])])


def watched(bind: Bind, as_json: bool) -> int:
    """Prints each change until Ctrl-C, SIGTERM, or until nobody reads any more; the exit status of the last look."""
    status, before = 2, ()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        while True:
            found = looked(bind)
            status = EXIT[why.decisive(found).verdict]
            if (now := marks(found)) != before:
                before = now
                _print_change(found, as_json)
            if _reader_is_gone(PAUSE):
                return status
    except (KeyboardInterrupt, BrokenPipeError):
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _print_change(found: list[Finding], as_json: bool) -> None:
    words = why_words.told(found)
    if as_json:
        line = msgspec.json.encode({"time": time.time(), **answer(found, words)}).decode()
    else:
        line = f"{time.strftime('%H:%M:%S')} {' '.join([words.what, *words.why])}"
    print(line, flush=True)


def _reader_is_gone(seconds: float) -> bool:
    """Waits, and says whether standard output has lost its reader: a pipe's, or a terminal."""
    poller = select.poll()
    try:
        poller.register(sys.stdout.fileno(), 0)  # POLLERR and POLLHUP are told without being asked for
    except (OSError, ValueError, AttributeError):
        pass
    return bool(poller.poll(seconds * 1000))


def marks(found: list[Finding]) -> tuple[Any, ...]:
    """What counts as a change when it differs: not how long something lasts, nor how many connections there are."""
    return tuple(
        (
            each.address,
            each.verdict,
            each.cause,
            each.plainly,
            each.note,
            tuple(owner.facts.pid for owner in each.roots),
            tuple(sorted({(row.state, row.owned) for row in each.culprits})),
        )
        for each in found
    )


def answer(found: list[Finding], words: Told) -> dict[str, Any]:
    """The answer for a program."""
    first = why.decisive(found)
    return {
        "verdict": first.verdict,
        "cause": first.cause,
        "what": words.what,
        "why": words.why,
        "advice": words.advice,
        "command": words.command,
        "addresses": [_of_address(each) for each in found],
    }


def _of_address(finding: Finding) -> dict[str, Any]:
    return {
        "address": finding.address,
        "verdict": finding.verdict,
        "cause": finding.cause,
        "error": os.strerror(finding.number) if finding.number else None,
        "reuse_port": finding.shares,
        "binds_without_reuse_address": finding.plainly if finding.verdict is Verdict.FREE else False,
        "owners": [_of_owner(each) for each in finding.owners],
        "unseen": sum(each.number for each in finding.unseen),
        "sockets": [
            {
                "address": spoken((each.family, (each.host, finding.place[1][1]))) if each.state else "",
                "state": each.state,
                "count": each.number,
                "uid": each.user,
                "has_process": each.owned,
                "peer": each.peer or None,
                "ends_within": each.ends_within,
                "waiting": each.waiting if each.state == "LISTEN" else None,
                "backlog": each.backlog if each.state == "LISTEN" else None,
            }
            for each in finding.sockets[:MOST_ROWS]
        ],
    }


def _of_owner(owner: Owner) -> dict[str, Any]:
    facts = owner.facts
    return {
        "pid": facts.pid,
        "command": facts.command,
        "uid": facts.uid,
        "user": user_name(facts.uid) if facts.uid is not None else None,
        "parent": facts.parent,
        "started": facts.started,
        "unit": facts.group.unit or None,
        "container": facts.group.container or None,
        "pronghorn": owner.role or None,
        "control_socket": owner.control or None,
        "left_behind": owner.left_behind,
    }
