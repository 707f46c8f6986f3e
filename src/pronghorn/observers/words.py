"""Events in words: what each record says, at which level, and which of them come in floods.

Law: the words are chosen here and nowhere else. What a peer or a handler had its hands on is escaped and capped, so
that one record is one line and nobody can forge another (CVE-2013-1862 is what happens otherwise): see phrases.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from pronghorn import events
from pronghorn.events import Event
from pronghorn.observers.phrases import (
    MOST_NAMES,
    counted,
    crashed_at,
    date,
    ending,
    escaped,
    frames,
    indented,
    kind_and_text,
    peer_name,
    raised_at,
    trace,
)

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

E = TypeVar("E", bound=Event)
Words = Callable[[Any], tuple[int, str]]
WORDS: dict[type[Event], tuple[int, Words]] = {}


def words(most: int, kind: type[E]) -> Callable[[Callable[[E], tuple[int, str]]], Callable[[E], tuple[int, str]]]:
    """Registers how one kind of event is told, and the highest level that its records can have."""

    def register(tell: Callable[[E], tuple[int, str]]) -> Callable[[E], tuple[int, str]]:
        WORDS[kind] = most, tell
        return tell

    return register


def limited_kind(event: Event) -> Hashable:
    """What a record counts as when it is one of those that come in floods, else None."""
    if isinstance(event, events.AcceptFailed):
        return "accept", event.address, event.error.errno
    if isinstance(event, events.HandshakeFailed):
        return "handshake", event.why
    if isinstance(event, events.ConnectionRefused):
        return "refused", event.limit
    if isinstance(event, events.ClientsWait):
        return "wait", event.address
    if isinstance(event, events.WorkerExited) and (event.stack or event.often) and not event.wanted:
        return "worker", event.status, crashed_at(event.stack)
    if isinstance(event, events.SourceSuspected):
        return "suspect", event.source, event.seconds
    if isinstance(event, events.ChildDied):
        return "child", event.status, crashed_at(event.stack)
    if isinstance(event, events.PeerFailed) and not isinstance(event.error, OSError):
        return "peer", type(event.error)
    if isinstance(event, events.SupervisorFailed):
        return "supervisor", type(event.error), raised_at(event.error)
    if isinstance(event, events.HandlerFailed):
        return "handler", type(event.error), raised_at(event.error)
    if isinstance(event, events.LoopFailed):
        return "loop", type(event.error), raised_at(event.error)
    return None


@words(INFO, events.ListenerOpened)
def _listener_opened(event: events.ListenerOpened) -> tuple[int, str]:
    address = escaped(event.address)
    if address.startswith("unix:"):
        return INFO, f"Listening at: {address}{' (TLS)' if event.tls else ''}"
    return INFO, f"Listening at: {'tls' if event.tls else 'tcp'}://{address}"


@words(WARNING, events.ListenerSkipped)
def _listener_skipped(event: events.ListenerSkipped) -> tuple[int, str]:
    return WARNING, f"Not listening at {escaped(event.address)}: {escaped(event.why)}"


@words(WARNING, events.ControlMissing)
def _control_missing(event: events.ControlMissing) -> tuple[int, str]:
    return WARNING, f"{escaped(event.what)} {escaped(event.why)} pronghorn ctl will not find this server"


@words(INFO, events.ServerStarted)
def _server_started(event: events.ServerStarted) -> tuple[int, str]:
    return INFO, f"At most {counted(event.max_connections, 'connection')}: {event.why_max_connections}"


@words(INFO, events.ModelChosen)
def _model_chosen(event: events.ModelChosen) -> tuple[int, str]:
    return INFO, f"Model {event.model}: {event.why}"


@words(INFO, events.WorkersStarted)
def _workers_started(event: events.WorkersStarted) -> tuple[int, str]:
    missing = event.ready < event.wanted
    workers = f"{event.ready} of {counted(event.wanted, 'worker')}" if missing else counted(event.wanted, "worker")
    what = f"Serving {escaped(event.handler)} ({event.style} style) under {event.model}"
    return (WARNING if missing else INFO), f"{what}: {workers}"


@words(WARNING, events.ServerStopped)
def _server_stopped(event: events.ServerStopped) -> tuple[int, str]:
    cut = [f"{event.cut} cut by the drain deadline"] if event.cut else []
    if event.unknown:
        cut.append(f"those of {event.unknown} killed {'processes' if event.unknown > 1 else 'process'} not counted")
    return (WARNING if cut else INFO), "Stopped" + (f"; connections: {', '.join(cut)}" if cut else "")


@words(DEBUG, events.ConnectionOpened)
def _connection_opened(event: events.ConnectionOpened) -> tuple[int, str]:
    return DEBUG, f"received from {peer_name(event.peer)}"


@words(DEBUG, events.ConnectionClosed)
def _connection_closed(event: events.ConnectionClosed) -> tuple[int, str]:
    more = "".join(f" ({escaped(each)})" for each in (event.detail, event.program) if each)
    return DEBUG, (
        f"closed connection {event.number} from {peer_name(event.peer)}: {escaped(event.reason)}{more} after "
        f"{event.seconds:.3f} s, {event.bytes_in} bytes in, {event.bytes_out} bytes out"
    )


@words(WARNING, events.ConnectionRefused)
def _connection_refused(event: events.ConnectionRefused) -> tuple[int, str]:
    detail = f" ({escaped(event.detail)})" if event.detail else ""
    return WARNING, f"Refused {peer_name(event.peer)}: {escaped(event.limit)}{detail}"


@words(WARNING, events.ClientsWait)
def _clients_wait(event: events.ClientsWait) -> tuple[int, str]:
    room = f"there is no room beside {event.open:,} open connections ({event.limit})"
    return WARNING, f"Clients wait at {escaped(event.address)}: {room}"


@words(ERROR, events.HandlerFailed)
def _handler_failed(event: events.HandlerFailed) -> tuple[int, str]:
    number = f"connection {event.number} from {peer_name(event.peer)}"
    return ERROR, f"Handler failed on {number}: {kind_and_text(event.error)}{trace(event.error)}"


@words(INFO, events.PeerFailed)
def _peer_failed(event: events.PeerFailed) -> tuple[int, str]:
    level = DEBUG if isinstance(event.error, OSError) else INFO
    return level, f"Connection {event.number} from {peer_name(event.peer)} failed: {kind_and_text(event.error)}"


@words(INFO, events.HandshakeFailed)
def _handshake_failed(event: events.HandshakeFailed) -> tuple[int, str]:
    return INFO, f"No TLS with {peer_name(event.peer)}: {escaped(event.why)}"


@words(ERROR, events.ObserverFailed)
def _observer_failed(event: events.ObserverFailed) -> tuple[int, str]:
    what = f"{escaped(event.observer)} raised {kind_and_text(event.error)} on {escaped(event.event)}"
    return ERROR, f"The observer {what}; it is left out for 10 s"


@words(ERROR, events.LoopFailed)
def _loop_failed(event: events.LoopFailed) -> tuple[int, str]:
    told = kind_and_text(event.error)
    if isinstance(event.error, (SystemExit, KeyboardInterrupt)):
        return ERROR, f"A task or a timer of the handler raised {told}; the worker goes on{trace(event.error)}"
    return ERROR, f"A fault in this worker's loop, which goes on: {told}{trace(event.error, ours=True)}"


@words(ERROR, events.AcceptFailed)
def _accept_failed(event: events.AcceptFailed) -> tuple[int, str]:
    what = f"accept failed at {escaped(event.address)}: {escaped(event.error.strerror or event.error)}"
    if not event.pause:
        return ERROR, f"{what}; this worker listens there no more"
    away = f"; {event.turned_away} of those who waited were turned away" if event.turned_away else ""
    return ERROR, f"{what}; next attempt in {event.pause:g} s{away}"


@words(DEBUG, events.WorkerStarted)
def _worker_started(event: events.WorkerStarted) -> tuple[int, str]:
    return DEBUG, f"Worker {event.slot} started with process id {event.pid}"


@words(INFO, events.WorkerReady)
def _worker_ready(event: events.WorkerReady) -> tuple[int, str]:
    return DEBUG if event.often else INFO, f"Worker {event.slot} is ready, process id {event.pid}"


@words(ERROR, events.WorkerExited)
def _worker_exited(event: events.WorkerExited) -> tuple[int, str]:
    who = f"Worker {event.slot} (process id {event.pid})"
    cost = f"; {counted(event.lost, 'connection')} ended with it" if event.lost else ""
    if event.left:
        cost += f"; {counted(event.left, 'connection')} live{'s' * (event.left == 1)} on without it"
    if event.wanted:
        return (WARNING, f"{who} {ending(event.status)}{cost}") if cost else (DEBUG, f"{who} has left")
    level = WARNING if event.status == 0 and not cost else ERROR
    return level, f"{who} {ending(event.status)}{cost}{frames(event.stack)}"


@words(ERROR, events.ChildDied)
def _child_died(event: events.ChildDied) -> tuple[int, str]:
    who = f"The process of a connection from {peer_name(event.peer)} (process id {event.pid})"
    return ERROR, f"{who} {ending(event.status)}{frames(event.stack)}"


@words(ERROR, events.WorkerNotStarted)
def _worker_not_started(event: events.WorkerNotStarted) -> tuple[int, str]:
    reason, *lines = _reason("", event.why).split("\n", 1)
    head = f"Worker {event.slot} did not start: {reason}; next attempt in {event.pause:.1f} s"
    return ERROR, "\n".join([head, *lines])


@words(ERROR, events.ReplacementsWait)
def _replacements_wait(event: events.ReplacementsWait) -> tuple[int, str]:
    return ERROR, f"Workers die so often that new ones have to wait: {event.rate:g} are started in a second"


@words(ERROR, events.SourceSuspected)
def _source_suspected(event: events.SourceSuspected) -> tuple[int, str]:
    what = f"{counted(event.deaths, 'worker')} died while {escaped(event.source)} was connected"
    if not event.seconds:
        return ERROR, f"{what}: it is not refused, {escaped(event.why)}"
    return ERROR, f"{what}: it is refused for {event.seconds:g} s (--crash-penalty)"


@words(ERROR, events.WorkerCrashed)
def _worker_crashed(event: events.WorkerCrashed) -> tuple[int, str]:
    head = f"Worker {event.slot} (process id {event.pid}) "
    if event.trace.rstrip().rpartition("\n")[2].endswith(("MemoryError", "OutOfMemory")):
        head += "has no memory for its own loop, and ends: look at its limit (ulimit -v), and at what its handler holds"
    else:
        head += "failed; this is a fault of the server"
    return ERROR, head + indented(event.trace.splitlines())


@words(ERROR, events.WorkerSilent)
def _worker_silent(event: events.WorkerSilent) -> tuple[int, str]:
    who = f"Worker {event.slot} (process id {event.pid})"
    silence = f"has given no sign of life for {event.seconds:.0f} s (--worker-silence)"
    return ERROR, f"{who} {silence}: its stacks follow, and it is replaced"


@words(WARNING, events.WorkerDebugged)
def _worker_debugged(event: events.WorkerDebugged) -> tuple[int, str]:
    who = f"worker {event.slot} (process id {event.pid})"
    return WARNING, f"A debugger waits in {who}: it is not killed for silence (--worker-silence); {escaped(event.how)}"


@words(ERROR, events.WorkerDoomed)
def _worker_doomed(event: events.WorkerDoomed) -> tuple[int, str]:
    return ERROR, f"Worker {event.slot} (process id {event.pid}) is killed: {escaped(event.why)}"


@words(INFO, events.WorkerRetired)
def _worker_retired(event: events.WorkerRetired) -> tuple[int, str]:
    return INFO, f"Worker {event.slot} (process id {event.pid}) gets a successor: {escaped(event.why)}"


@words(ERROR, events.SupervisorFailed)
def _supervisor_failed(event: events.SupervisorFailed) -> tuple[int, str]:
    head = f"The supervisor failed to {escaped(event.what)}: {kind_and_text(event.error)}; it goes on"
    if isinstance(event.error, MemoryError):
        return ERROR, head
    return ERROR, head + ", and this is a fault of the server" + trace(event.error, ours=True)


@words(INFO, events.OldWorkerDrains)
def _old_worker_drains(event: events.OldWorkerDrains) -> tuple[int, str]:
    return INFO, f"An old worker (generation {event.generation}, process id {event.pid}) drains now: {event.why}"


@words(INFO, events.Resized)
def _resized(event: events.Resized) -> tuple[int, str]:
    return INFO, f"Resizing to {counted(event.workers, 'worker')} ({escaped(event.why)})"


@words(INFO, events.ReloadStarted)
def _reload_started(event: events.ReloadStarted) -> tuple[int, str]:
    return INFO, f"Reloading ({escaped(event.why)})"


@words(WARNING, events.Reloaded)
def _reloaded(event: events.Reloaded) -> tuple[int, str]:
    text = f"Reloaded in {event.seconds:.1f} s: generation {event.generation} serves"
    if not event.code:
        text += "; the handler is the script's own, and is not read anew"
    if event.accepting:
        text += f"; {counted(event.accepting, 'old worker')} may still accept"
    if event.later:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in event.later)
        return WARNING, f"{text}; what changed of {names} takes effect at the next start"
    return INFO, text


@words(ERROR, events.ReloadFailed)
def _reload_failed(event: events.ReloadFailed) -> tuple[int, str]:
    return ERROR, "Reload failed, and nothing has changed: " + _reason(event.what, event.why)


@words(INFO, events.UpgradeStarted)
def _upgrade_started(event: events.UpgradeStarted) -> tuple[int, str]:
    return INFO, "Upgrading: a new program is started"


@words(INFO, events.Upgraded)
def _upgraded(event: events.Upgraded) -> tuple[int, str]:
    return INFO, f"Upgraded: process {event.pid} serves"


@words(ERROR, events.UpgradeFailed)
def _upgrade_failed(event: events.UpgradeFailed) -> tuple[int, str]:
    return ERROR, "Upgrade failed, and nothing has changed: " + _reason(event.what, event.why)


def _reason(what: str, why: str) -> str:
    """A reason of several lines in one record: the first line, the last, and all of them indented."""
    first, *rest = why.splitlines() or [what]
    last = f" {escaped(rest[-1])}" if rest else ""
    return escaped(first) + last + (indented(rest) if len(rest) > 1 else "")


@words(ERROR, events.LifespanFailed)
def _lifespan_failed(event: events.LifespanFailed) -> tuple[int, str]:
    return ERROR, f"Lifespan {escaped(event.name)} failed at its end: {kind_and_text(event.error)}{trace(event.error)}"


@words(ERROR, events.LogNotReopened)
def _log_not_reopened(event: events.LogNotReopened) -> tuple[int, str]:
    return ERROR, f"The log file {escaped(event.path)} cannot be opened anew: {escaped(event.why)}; the old one stays"


AT_RISK = {
    "config": "it decides what root does at the next start or reload",
    "log_config": "it decides what root imports, and which files it opens, at the next start",
    "pid_file": "root's scripts send signals to the number in it",
}


@words(WARNING, events.PathAtRisk)
def _path_at_risk(event: events.PathAtRisk) -> tuple[int, str]:
    who = f"User {event.uid}, whom workers serve as, may change {escaped(event.path)}"
    return WARNING, f"{who}: {AT_RISK[event.setting]}; let root alone write to its folder"


@words(INFO, events.DrainStarted)
def _drain_started(event: events.DrainStarted) -> tuple[int, str]:
    who = f"{counted(event.open, 'open connection')} {'has' if event.open == 1 else 'have'}"
    return INFO, f"Draining ({escaped(event.why)})" + (f": {who} {event.seconds:g} s to finish" if event.open else "")


@words(WARNING, events.DrainFinished)
def _drain_finished(event: events.DrainFinished) -> tuple[int, str]:
    head = f"Drained in {event.seconds:.1f} s"
    if not event.cut:
        return DEBUG, head
    peers = ", ".join(f"{peer_name(peer)} after {seconds:.1f} s" for peer, seconds in event.cut_off)
    more = f" and {event.cut - len(event.cut_off)} more" if event.cut > len(event.cut_off) else ""
    whose = (
        f"{counted(event.cut, 'connection')} of {event.style} style"
        if event.style
        else counted(event.cut, "connection")
    )
    return WARNING, f"{head}; cut {whose} that did not finish in time: {peers}{more}"


@words(WARNING, events.SignalsTaken)
def _signals_taken(event: events.SignalsTaken) -> tuple[int, str]:
    which = " and ".join(event.names)
    hint = "for what is to be done at a worker's end there are lifespans and atexit"
    return WARNING, f"The handler's import or lifespan had taken {which}, which the server needs and has back; {hint}"


@words(WARNING, events.WorkLeft)
def _work_left(event: events.WorkLeft) -> tuple[int, str]:
    told = "; ".join(escaped(name) for name in event.names[:MOST_NAMES])
    more = f"; and {len(event.names) - MOST_NAMES} more" if len(event.names) > MOST_NAMES else ""
    return WARNING, f"The handler's work is not done at the drain deadline, and is lost: {told}{more}"


@words(INFO, events.CertificateLoaded)
def _certificate_loaded(event: events.CertificateLoaded) -> tuple[int, str]:
    verb = "New certificate" if event.replaced else "Certificate"
    names = escaped(", ".join(event.names)) or "no name"
    kind = f"{escaped(event.kind)}, " if event.kind else ""
    return INFO, f"{verb} {escaped(event.path)}: {names}; {kind}serial {event.serial}, good until {date(event.until)}"


@words(WARNING, events.CertificateExpires)
def _certificate_expires(event: events.CertificateExpires) -> tuple[int, str]:
    return WARNING, f"Certificate {escaped(event.path)} expires on {date(event.until)}: renew it"


@words(ERROR, events.CertificateRefused)
def _certificate_refused(event: events.CertificateRefused) -> tuple[int, str]:
    return ERROR, f"The new certificate is not taken, the old one stays: {escaped(event.why, 600)}"
