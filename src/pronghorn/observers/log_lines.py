"""The words of the log: for each kind of event a level and a format string, and what makes a flood.

Law: the words are chosen here and nowhere else. A format string is made of constants; what an event holds stands in the
string's fields (log_line.py). Attributes are escaped and capped, so that one record is one line and nobody can forge
another (CVE-2013-1862 is what happens otherwise); a part is a function of the event, and escapes the texts that it
returns.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from pronghorn import events
from pronghorn.events import Event
from pronghorn.observers.escaping import (
    MOST_NAMES,
    crashed_at,
    escaped,
    indented,
    peer_name,
    raised_at,
)
from pronghorn.observers.log_line import DEBUG, ERROR, INFO, WARNING, Line, reason_of

LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}


def _listening(event: events.ListenerOpened) -> str:
    name = " ({name})" * bool(event.name)
    if event.address.startswith("unix:"):
        return "Listening at: {address}" + " (TLS)" * event.tls + name
    return f"Listening at: {'tls' if event.tls else 'tcp'}://{{address}}{name}"


def _admin_opened(event: events.AdminOpened) -> str:
    place = "{address}" if event.address.startswith("unix:") else "http://{address}"
    if event.kind != "admin":
        place = "{address}"
    what = "The admin port is" if event.kind == "admin" else "HAProxy's agent check is answered"
    return f"{what} at: {place}" + "; other machines may reach it, and whoever does may read there" * event.public


def _listens_otherwise(event: events.ListenerChanged) -> str:
    return f"Listening from now on {NOW_TLS.get(event.tls, '')} at: {{address}}" + " ({name})" * bool(event.name)


def _password_read(event: events.BrokerPasswordRead) -> str:
    if event.why:
        return "The password of the broker remains what it was: {why}"
    return "Another password of the broker is in {path}: the next connection to it takes that"


def _broker_found(event: events.BrokerFound) -> str:
    return "The bus reaches other hosts" + " again, after {seconds:.1f} s" * bool(event.seconds) + ": {broker}"


def _reload_way(event: events.ReloadWay) -> str:
    if event.on_reload == "spread":
        return "Reloads spread goodbyes over {seconds:g} s (--on-reload spread)"
    if event.on_reload == "handover":
        if event.why:
            return (
                "Reloads keep connections"
                + ", {seconds:g} s at most" * (event.seconds < math.inf)
                + (": --on-reload handover moves none with {why}")
            )
        return "Reloads move connections to the new workers (--on-reload handover)"
    return "Reloads keep connections" + ", {seconds:g} s at most" * (event.seconds < math.inf) + " (--on-reload keep)"


def _serving(event: events.WorkersStarted) -> str:
    of = "{ready} of " if event.ready < event.wanted else ""
    return "Serving {handler} ({style} style) under {model}: " + of + "{wanted worker}"


def _stopped(event: events.ServerStopped) -> str:
    cut = ["{cut} cut by the drain deadline"] if event.cut else []
    if event.unknown:
        cut.append(f"those of {{unknown}} killed {'processes' if event.unknown > 1 else 'process'} not counted")
    return f"Stopped; connections: {', '.join(cut)}" if cut else "Stopped"


def _names(names: tuple[str, ...], count: int) -> str:
    return ", ".join(map(escaped, names)) + (", ..." if count > len(names) else "")


def _in_brackets(*details: str) -> str:
    return "".join(f" ({escaped(each)})" for each in details if each)


def _loop_failed(event: events.LoopFailed) -> str:
    if isinstance(event.error, (SystemExit, KeyboardInterrupt)):
        return "A task or a timer of the handler raised {error}; the worker goes on{trace}"
    return "A fault in this worker's loop, which goes on: {error}{our_trace}"


def _whose_callback(event: events.SlowCallback | events.SlowCallbackEnded) -> str:
    if not event.id:
        return "A callback"
    at = f" to {escaped(event.listener)}" if event.listener else ""
    return f"Connection {escaped(event.id)} from {peer_name(event.peer)}{at}: a callback"


def _accept_failed(event: events.AcceptFailed) -> str:
    if not event.pause:
        return "accept failed at {address}: {problem}; this worker listens there no more"
    away = "; {turned_away} of those who waited were turned away" if event.turned_away else ""
    return "accept failed at {address}: {problem}; next attempt in {pause:g} s" + away


def _worker_exited(event: events.WorkerExited) -> str:
    cost = "; {lost connection} ended with it" if event.lost else ""
    if event.left:
        cost += f"; {{left connection}} live{'s' * (event.left == 1)} on without it"
    if event.wanted:
        return f"{WORKER} {{ending}}{cost}" if cost else f"{WORKER} has left"
    return f"{WORKER} {{ending}}{cost}{{frames}}"


def _level_of_exit(event: events.WorkerExited) -> int:
    if event.wanted:
        return WARNING if event.lost or event.left else DEBUG
    return WARNING if event.status == 0 and not event.lost and not event.left else ERROR


def _crash_of_many(event: events.WorkerExited) -> Hashable:
    crashed = (event.stack or event.often) and not event.wanted
    return (event.status, crashed_at(event.stack)) if crashed else None


def _said(event: events.SideProcessSaid) -> str:
    first, *rest = event.text.splitlines() or [""]
    return escaped(first) + indented(rest)


def _crashed(event: events.WorkerCrashed) -> str:
    if event.trace.rstrip().rpartition("\n")[2].endswith(("MemoryError", "OutOfMemory")):
        limit = "look at its limit (ulimit -v), and at what its handler holds"
        return f"{WORKER} has no memory for its own loop, and ends: {limit}{{trace}}"
    return f"{WORKER} failed; this is a fault of the server{{trace}}"


def _suspected(event: events.SourceSuspected) -> str:
    refused = "it is refused for {seconds:g} s (--crash-penalty)" if event.seconds else "it is not refused, {why}"
    return "{deaths worker} died while {source} was connected: " + refused


def _supervisor_failed(event: events.SupervisorFailed) -> str:
    fault = "" if isinstance(event.error, MemoryError) else ", and this is a fault of the server{our_trace}"
    return "The supervisor failed to {what}: {error}; it goes on" + fault


def _reloaded(event: events.Reloaded) -> str:
    text = "Reloaded in {seconds:.1f} s: generation {generation} serves"
    if not event.code:
        text += "; the handler is the script's own, and is not read anew"
    if event.moved:
        text += "; {moved connection} moved to it, held up for {pause} at most"
    if event.stayed and event.moved and not event.spread:
        text += ", and {stayed} stayed"
    elif event.left:
        one = event.left == 1
        text += "; {left connection} of old workers "
        text += f"get{'s' * one} a goodbye over {{spread:g}} s" if event.spread else f"go{'es' * one} on"
    if event.accepting:
        text += "; {accepting old worker} may still accept"
    return text + "; what changed of {flags} takes effect at the next start" * bool(event.later)


def _handed_over(event: events.WorkerHandedOver) -> str:
    handed = "{moved connection} over, held up for {pause} at most" if event.moved else "no connection over"
    return f"{WORKER} has handed {handed}" + "; {reasons_to_stay}" * bool(event.stay)


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _draining(event: events.DrainStarted) -> str:
    has = "has" if event.open == 1 else "have"
    return "Draining ({why})" + (f": {{open open connection}} {has} {{seconds:g}} s to finish" if event.open else "")


def _goodbyes_said(event: events.GoodbyesSaid) -> str:
    stay = "; {left} stay: their handler wants that, or they had no quiet moment yet"
    if event.left == 1:
        stay = "; 1 stays: its handler wants that, or it had no quiet moment yet"
    return "Said goodbye to {said connection}" + stay * (event.left > 0)


def _drained(event: events.DrainFinished) -> str:
    style = " of {style} style" if event.style else ""
    cut = f"; cut {{cut connection}}{style} that did not finish in time: {{peers}}" if event.cut else ""
    return "Drained in {seconds:.1f} s" + cut


def _peers_cut_off(event: events.DrainFinished) -> str:
    peers = ", ".join(f"{peer_name(peer)} after {seconds:.1f} s" for peer, seconds in event.cut_off)
    return peers + (f" and {event.cut - len(event.cut_off)} more" if event.cut > len(event.cut_off) else "")


def _work(event: events.WorkLeft) -> str:
    more = f"; and {len(event.names) - MOST_NAMES} more" if len(event.names) > MOST_NAMES else ""
    return "; ".join(escaped(name) for name in event.names[:MOST_NAMES]) + more


def _error_and_place(event: Any) -> Hashable:
    return type(event.error), raised_at(event.error)


WORKER = "Worker {slot} (process id {pid})"
NOW_TLS = {"on": "with TLS", "starttls": "with STARTTLS", "off": "without TLS"}
AT_RISK = {
    "config": "it decides what root does at the next start or reload",
    "log_config": "it decides what root imports, and which files it opens, at the next start",
    "pid_file": "root's scripts send signals to the number in it",
}

WORDS: dict[type[Event], Line] = {
    events.ListenerOpened: Line(INFO, _listening),
    events.ListenerChanged: Line(INFO, _listens_otherwise),
    events.ListenerSkipped: Line(WARNING, "Not listening at {address}: {why}"),
    events.BusSocketMissing: Line(
        WARNING, "There is no bus socket {path}: {why} Other processes cannot publish: name another with --bus-socket"
    ),
    events.BrokerLost: Line(WARNING, "The bus does not reach other hosts, serving goes on: {why} ({broker})"),
    events.BrokerPasswordRead: Line(
        INFO,
        _password_read,
        level=lambda event: WARNING if event.why else INFO,
    ),
    events.BrokerFound: Line(INFO, _broker_found),
    events.ControlMissing: Line(WARNING, "{what} {why} pronghorn ctl will not find this server"),
    events.ControlAsked: Line(INFO, "User {uid}, of group {group}, asks for it: ctl {command}"),
    events.ConnectionsKilled: Line(
        INFO,
        lambda event: "The operator has ended {count connection}: {which}",
        which=lambda event: _names(event.ids, event.count),
    ),
    events.LogLevelAsked: Line(WARNING, "The operator has set the level of the log: {level}, before {before}"),
    events.ServerStarted: Line(INFO, "At most {max_connections connection}: {why_max_connections}"),
    events.ReloadWay: Line(INFO, _reload_way),
    events.ModelChosen: Line(INFO, "Model {model}: {why}"),
    events.WorkersChosen: Line(INFO, "{workers worker} under {model} (--workers auto): {why}"),
    events.WorkersStarted: Line(WARNING, _serving, level=lambda event: WARNING if event.ready < event.wanted else INFO),
    events.ServerStopped: Line(WARNING, _stopped, level=lambda event: WARNING if event.cut or event.unknown else INFO),
    events.ConnectionOpened: Line(DEBUG, "received from {peer}{at}"),
    events.ConnectionClosed: Line(
        DEBUG,
        "closed connection {connection} from {peer}{at}: {reason}{more} after {seconds:.3f} s, {bytes_in} bytes in, "
        "{bytes_out} bytes out{fields}",
        fields=lambda event: "".join(f", {escaped(name)}={escaped(value)}" for name, value in event.fields),
        more=lambda event: _in_brackets(event.detail, event.program),
    ),
    events.ConnectionNotTaken: Line(
        ERROR,
        "The handler cannot go on with the connection from {peer}, which stays with an old worker: {error}{trace}",
        flood=_error_and_place,
    ),
    events.ConnectionTakenOver: Line(DEBUG, "connection {connection} from {peer} goes on here: before, {before}"),
    events.ConnectionRefused: Line(
        WARNING,
        "Refused {peer}{at}: {limit}{more}",
        flood=lambda event: event.limit,
        more=lambda event: _in_brackets(event.detail),
    ),
    events.ClientsWait: Line(
        WARNING,
        "Clients wait at {address}: there is no room beside {open:,} open connections ({limit})",
        flood=lambda event: event.address,
    ),
    events.ProxyHeaderUnread: Line(
        WARNING,
        "{peer} sends a PROXY header (version {version}) at {address}, and the handler gets it as the client's own"
        " bytes: name that proxy, --proxy-from {proxy}",
        proxy=lambda event: escaped(event.peer[0]) if isinstance(event.peer, tuple) else "unix",
    ),
    events.HandlerFailed: Line(
        ERROR, "Handler failed on connection {connection} from {peer}{at}: {error}{trace}", flood=_error_and_place
    ),
    events.PeerFailed: Line(
        INFO,
        "Connection {connection} from {peer}{at} failed: {error}",
        level=lambda event: DEBUG if isinstance(event.error, OSError) else INFO,
        flood=lambda event: None if isinstance(event.error, OSError) else type(event.error),
    ),
    events.SlowMember: Line(
        WARNING,
        "Connection {connection} from {peer}{at} does not read what the bus has for it: {fate} (--bus-slow)",
        fate=lambda event: "it is closed" if event.closed else "its oldest messages are dropped",
        flood=lambda event: event.closed,
    ),
    events.HandshakeFailed: Line(INFO, "No TLS with {peer}{at}: {why}", flood=lambda event: event.why),
    events.ObserverFailed: Line(
        ERROR, "The observer {observer} raised {error} on {event}; it is left out for 10 s{trace}"
    ),
    events.LoopFailed: Line(ERROR, _loop_failed, flood=_error_and_place),
    events.SlowCallback: Line(
        WARNING,
        "{whose} holds up this worker's loop, for {seconds:.1f} s so far (--slow-callback), at {place}{stack}",
        flood=lambda event: event.place,
        whose=_whose_callback,
        stack=lambda event: indented(event.stack.splitlines()),
    ),
    events.SlowCallbackEnded: Line(
        WARNING,
        "{whose} has held up this worker's loop for about {seconds:.1f} s in all, at {place}",
        flood=lambda event: event.place,
        whose=_whose_callback,
    ),
    events.AcceptFailed: Line(
        ERROR,
        _accept_failed,
        flood=lambda event: (event.address, event.error.errno),
        problem=lambda event: escaped(event.error.strerror or event.error),
    ),
    events.WorkerStarted: Line(DEBUG, "Worker {slot} started with process id {pid}"),
    events.WorkerReady: Line(
        INFO, "Worker {slot} is ready, process id {pid}", level=lambda event: DEBUG if event.often else INFO
    ),
    events.WorkerExited: Line(ERROR, _worker_exited, level=_level_of_exit, flood=_crash_of_many),
    events.ChildDied: Line(
        ERROR,
        "The process of a connection from {peer}{at} (process id {pid}) {ending}{frames}",
        flood=lambda event: (event.status, crashed_at(event.stack)),
    ),
    events.WorkerNotStarted: Line(
        ERROR,
        "Worker {slot} did not start: {reason}; next attempt in {pause:.1f} s{lines}",
        reason=lambda event: reason_of(event.why)[0],
        lines=lambda event: reason_of(event.why)[1],
    ),
    events.ReplacementsWait: Line(
        ERROR, "Workers die so often that new ones have to wait: {rate:g} are started in a second"
    ),
    events.SourceSuspected: Line(ERROR, _suspected, flood=lambda event: (event.source, event.seconds)),
    events.WorkerCrashed: Line(ERROR, _crashed, trace=lambda event: indented(event.trace.splitlines())),
    events.WorkerSilent: Line(
        ERROR,
        f"{WORKER} has given no sign of life for {{seconds:.0f}} s (--worker-silence): its stacks follow, and it is "
        "replaced",
    ),
    events.WorkerDebugged: Line(
        WARNING,
        "A debugger waits in worker {slot} (process id {pid}): it is not killed for silence (--worker-silence); {how}",
    ),
    events.WorkerDoomed: Line(ERROR, f"{WORKER} is killed: {{why}}"),
    events.WorkerRetired: Line(INFO, f"{WORKER} gets a successor: {{why}}"),
    events.SupervisorFailed: Line(ERROR, _supervisor_failed, flood=_error_and_place),
    events.AdminOpened: Line(WARNING, _admin_opened, level=lambda event: WARNING if event.public else INFO),
    events.SideProcessSaid: Line(
        ERROR,
        "The {name} process: {said}",
        level=lambda event: LEVELS[event.level],
        said=_said,
    ),
    events.SideProcessEnded: Line(
        WARNING, "The {name} process (process id {pid}) {ending}; another starts in {pause:g} s"
    ),
    events.SideProcessNotStarted: Line(
        ERROR, "The {name} process cannot be started: {why}; next attempt in {pause:g} s"
    ),
    events.WorkerHandedOver: Line(
        INFO,
        _handed_over,
        pause=lambda event: _short(event.pause),
        reasons_to_stay=lambda event: ", ".join(
            f"{count:,} stay{'s' * (count == 1)} ({escaped(why)})" for why, count in event.stay
        ),
    ),
    events.OldWorkerDrains: Line(INFO, "An old worker (generation {generation}, process id {pid}) drains now: {why}"),
    events.Resized: Line(INFO, "Resizing to {workers worker} ({why})"),
    events.ReloadStarted: Line(INFO, "Reloading ({why})"),
    events.Reloaded: Line(
        WARNING,
        _reloaded,
        level=lambda event: WARNING if event.later else INFO,
        flags=lambda event: ", ".join(f"--{escaped(name).replace('_', '-')}" for name in event.later),
        pause=lambda event: _short(event.pause),
    ),
    events.ReloadFailed: Line(ERROR, "Reload failed, and nothing has changed: {reasons}"),
    events.UpgradeStarted: Line(INFO, "Upgrading: a new program is started"),
    events.Upgraded: Line(INFO, "Upgraded: process {pid} serves"),
    events.UpgradeFailed: Line(ERROR, "Upgrade failed, and nothing has changed: {reasons}"),
    events.LifespanFailed: Line(ERROR, "Lifespan {name} failed at its end: {error}{trace}"),
    events.AccessLogDropped: Line(
        WARNING,
        "{lines line} of the access log lost: {why}",
        flood=lambda event: event.why if event.lines == 1 else None,  # of many children; sums come once in a while
    ),
    events.LogNotReopened: Line(ERROR, "The log file {path} cannot be opened anew: {why}; the old one stays"),
    events.PathAtRisk: Line(
        WARNING,
        "User {uid}, whom workers serve as, may change {path}: {risk}; let root alone write to its folder",
        risk=lambda event: AT_RISK[event.setting],
    ),
    events.SecretsExposed: Line(WARNING, "Everybody may read the {flag} {path}: chmod 640 it, or 600"),
    events.DrainDelayed: Line(INFO, "Draining in {seconds:g} s ({why}): not ready, and accepting until then"),
    events.DrainStarted: Line(INFO, _draining),
    events.DrainFinished: Line(
        WARNING,
        _drained,
        level=lambda event: WARNING if event.cut else DEBUG,
        peers=_peers_cut_off,
    ),
    events.GoodbyesBegin: Line(INFO, "Saying goodbye to {open connection} over {seconds:g} s, one after the other"),
    events.GoodbyesSaid: Line(INFO, _goodbyes_said),
    events.SignalsTaken: Line(
        WARNING,
        "The handler's import or lifespan had taken {which}, which the server needs and has back; for what is to be "
        "done at a worker's end there are lifespans and atexit",
        which=lambda event: escaped(" and ".join(event.names)),
    ),
    events.WorkLeft: Line(
        WARNING, "The handler's work is not done at the drain deadline, and is lost: {work}", work=_work
    ),
    events.CertificateLoaded: Line(
        INFO,
        "{verb} {path}: {names}; {kind}serial {serial}, good until {until}",
        verb=lambda event: "New certificate" if event.replaced else "Certificate",
        names=lambda event: escaped(", ".join(event.names)) or "no name",
        kind=lambda event: f"{escaped(event.kind)}, " if event.kind else "",
    ),
    events.CertificateExpires: Line(WARNING, "Certificate {path} expires on {until}: renew it"),
    events.CertificateRefused: Line(
        ERROR,
        "The new certificate is not taken, the old one stays: {why}",
        why=lambda event: escaped(event.why, 600),
    ),
}
