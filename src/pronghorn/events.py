"""Events: frozen records of what happened, which observers are called with.

Law: the core only ever calls `observe(event)`; it never logs, prints or counts for show. A record holds facts, no
sentences: observers choose the words. There is no event per message: messages are counted on their connection, and
the sums travel in `ConnectionClosed`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Event(msgspec.Struct, frozen=True):
    """The base of all records."""


Observer = Callable[[Event], None]


# The server.


class ServerStarted(Event, frozen=True):
    """Clients are answered from here on, by the first worker that is ready; how the server serves."""

    handler: str
    style: str
    model: str
    why_model: str
    workers: int
    max_connections: int
    why_max_connections: str


class ReloadWay(Event, frozen=True):
    """What a reload will do to established connections, told at the start: the value of `on_reload`, and for how many
    `seconds` it lasts (keep: until old workers drain, infinite if never; spread: until the last goodbye)."""

    on_reload: str
    seconds: float


class WorkersStarted(Event, frozen=True):
    """At the start of the server: each of the `wanted` workers is ready, or has failed to be; `ready` are."""

    handler: str
    style: str
    model: str
    ready: int
    wanted: int


class ServerStopped(Event, frozen=True):
    """Every worker is gone; `cut` connections did not finish in time, and those of `unknown` processes, which had to
    be killed, are not counted."""

    cut: int
    unknown: int = 0


class ModelChosen(Event, frozen=True):
    """Why the server serves under `model`, which no setting names."""

    model: str
    why: str


class ControlMissing(Event, frozen=True):
    """There is no control socket, because no place for it could be had."""

    what: str
    why: str


class PathAtRisk(Event, frozen=True):
    """The user whom workers serve as, `uid`, may change the file at `path`, which is the one of that `setting`."""

    path: str
    uid: int
    setting: str


class LogLevelSet(Event, frozen=True):
    """From here on this process logs records of this level and above, as the settings say that it serves with."""

    level: str


class LogNotReopened(Event, frozen=True):
    """The log file at `path` could not be opened anew; this process goes on writing to the old one."""

    path: str
    why: str


class ObserverFailed(Event, frozen=True):
    """An observer raised at an event of the kind `event`, and is not called for ten seconds."""

    observer: str
    event: str
    error: BaseException


# Listeners.


class ListenerOpened(Event, frozen=True):
    """A listener is bound and listening; `address` is written as `--bind` takes it back. `tls`: it speaks TLS."""

    address: str
    tls: bool = False


class ListenerSkipped(Event, frozen=True):
    """An address of a name that this host lacks was left out, because another one binds."""

    address: str
    why: str


class AcceptFailed(Event, frozen=True):
    """accept(2) failed; the acceptor rests for `pause` seconds, or, if that is 0, the listener is dead. Of the
    clients that waited `turned_away` were closed, by a descriptor kept back for that."""

    address: str
    error: OSError
    pause: float
    turned_away: int = 0


class ClientsWait(Event, frozen=True):
    """As many connections are open as may be: none is accepted at `address`, and clients wait in the queue.
    `limit` is the one that is reached: the whole server's, or one worker's; `open` counts alike."""

    address: str
    open: int
    limit: str


# Connections.


class ConnectionOpened(Event, frozen=True):
    """A connection was accepted. `number` counts them in its worker."""

    number: int
    peer: tuple[str, int] | str


class ConnectionClosed(Event, frozen=True):
    """A connection has ended, for `reason` (an errors.End), after `seconds`; `detail` may say more of the
    reason: the deadline, or the error's class. `program` is how the program behind it ended (`exit status 1`), where
    there was one."""

    number: int
    peer: tuple[str, int] | str
    reason: str
    seconds: float
    bytes_in: int
    bytes_out: int
    messages: int
    program: str = ""
    detail: str = ""


class ConnectionRefused(Event, frozen=True):
    """A connection was accepted and closed unserved, because of `limit`; `detail` may say more of this one."""

    peer: tuple[str, int] | str
    limit: str
    detail: str = ""


class HandshakeFailed(Event, frozen=True):
    """A client did not get through the TLS handshake; its connection is closed before any handler saw it."""

    number: int
    peer: tuple[str, int] | str
    why: str


class HandlerFailed(Event, frozen=True):
    """The handler raised; its connection is closed and no other is touched."""

    number: int
    peer: tuple[str, int] | str
    error: BaseException


class PeerFailed(Event, frozen=True):
    """The peer broke a rule or the connection; its connection is closed and nothing else is touched."""

    number: int
    peer: tuple[str, int] | str
    error: BaseException


class ChildDied(Event, frozen=True):
    """The process of one connection, under the fork model, ended without having closed it. `status` and `stack` are as
    those of a worker."""

    peer: tuple[str, int] | str
    pid: int
    status: int
    stack: str = ""


# Certificates.


class CertificateLoaded(Event, frozen=True):
    """A certificate that handshakes get from here on; `serial` is hexadecimal, `until` in seconds since 1970, `kind`
    that of its key. `replaced`: it took the place of another while the server ran."""

    path: str
    names: tuple[str, ...]
    serial: str
    until: float
    replaced: bool = False
    kind: str = ""


class CertificateExpires(Event, frozen=True):
    """A certificate in use has less than a tenth of its time left, and less than two weeks."""

    path: str
    until: float


class CertificateRefused(Event, frozen=True):
    """What stands in the certificate's files now cannot be used; nothing has changed."""

    why: str


# A worker.


class DrainStarted(Event, frozen=True):
    """Nothing new is accepted; the connections that are `open` have `seconds` to finish."""

    why: str
    seconds: float
    open: int


class DrainFinished(Event, frozen=True):
    """A worker's drain is over; `cut` connections did not finish in time, the first of them those of `cut_off`: each
    peer, and how many seconds it had been connected. Their handler is of this `style`."""

    cut: int
    seconds: float
    cut_off: tuple[tuple[tuple[str, int] | str, float], ...] = ()
    style: str = ""


class LoopFailed(Event, frozen=True):
    """Something that a worker's loop called raised, which it must not; the loop goes on."""

    error: BaseException


class LifespanFailed(Event, frozen=True):
    """The handler's lifespan raised when its worker left it; nothing else is touched."""

    name: str
    error: BaseException


class SignalsTaken(Event, frozen=True):
    """The handler, or a library of it, had set handlers for the signals of these names, which are the server's: it has
    taken them back."""

    names: tuple[str, ...]


class WorkLeft(Event, frozen=True):
    """At the drain deadline a process ends although work is under way that its handler has begun: `names` of threads,
    tasks and child processes. It is lost."""

    names: tuple[str, ...]


class WorkerCrashed(Event, frozen=True):
    """A model raised: a fault of the server itself, with its traceback as text."""

    slot: int
    pid: int
    trace: str


# Workers, as their supervisor sees them.


class WorkerStarted(Event, frozen=True):
    """A worker process was forked."""

    slot: int
    pid: int


class WorkerReady(Event, frozen=True):
    """A worker has imported its handler and entered its loop. `often`: workers die so often that new ones have to
    wait."""

    slot: int
    pid: int
    often: bool = False


class WorkerNotStarted(Event, frozen=True):
    """fork(2) failed, or the worker ended before it was ready; the next attempt is `pause` seconds away."""

    slot: int
    why: str
    pause: float


class WorkerExited(Event, frozen=True):
    """A worker is gone; `status` is its exit code, or minus the signal that killed it, as in subprocess. `lost`
    connections were open in it and ended with it. `stack` is what it wrote down when it crashed; `often`: workers die
    so often that new ones have to wait. `left` connections live on, in processes of their own."""

    slot: int
    pid: int
    status: int
    wanted: bool
    lost: int = 0
    stack: str = ""
    often: bool = False
    left: int = 0


class WorkerSilent(Event, frozen=True):
    """A worker's loop has given no sign of life for `seconds`; it writes down its stacks and is killed."""

    slot: int
    pid: int
    seconds: float


class WorkerDebugged(Event, frozen=True):
    """A worker has given no sign of life, but is debugged, as `how` says: it is not killed meanwhile."""

    slot: int
    pid: int
    how: str


class WorkerDoomed(Event, frozen=True):
    """A worker said on its line to the supervisor what no worker says; it is killed."""

    slot: int
    pid: int
    why: str


class WorkerRetired(Event, frozen=True):
    """A worker is worn out, and leaves once its successor is ready."""

    slot: int
    pid: int
    why: str


class OldWorkerDrains(Event, frozen=True):
    """A worker of an older generation, which went on with its connections, is to drain as at a stop."""

    pid: int
    generation: int
    why: str


class ReplacementsWait(Event, frozen=True):
    """Workers that have served die faster than they are replaced: `rate` in a second, over the whole server."""

    rate: float


class SourceSuspected(Event, frozen=True):
    """Workers died `deaths` times while `source` (an address, or a /64 of IPv6) was connected, and no other source
    explains that. The source is refused for `seconds`; 0: it is not, and `why` says why."""

    source: str
    deaths: int
    seconds: float
    why: str = ""


# The supervisor.


class Pulse(Event, frozen=True):
    """Once in a tick of the supervisor: of the `wanted` workers so many are ready, and so many were found silent."""

    ready: int
    silent: int
    wanted: int


class Resized(Event, frozen=True):
    """From now on there are so many workers."""

    workers: int
    why: str


class ReloadStarted(Event, frozen=True):
    """A new generation of workers starts, as a rule with settings, handler and certificates read anew."""

    why: str


class Reloaded(Event, frozen=True):
    """A new generation serves and the old one drains. `code` says whether the handler was imported anew; `later` are
    the settings that changed but take effect at the next start. `accepting` old workers have not let go of their
    listeners yet, as when a conversation holds them."""

    generation: int
    seconds: float
    code: bool = True
    later: tuple[str, ...] = ()
    accepting: int = 0


class ReloadFailed(Event, frozen=True):
    """Nothing has changed; `why` is the whole reason, perhaps of several lines."""

    what: str
    why: str


class UpgradeStarted(Event, frozen=True):
    """A new program is being started."""


class Upgraded(Event, frozen=True):
    """The new program, process `pid`, serves; this one drains."""

    pid: int


class UpgradeFailed(Event, frozen=True):
    """Nothing has changed; `why` is the whole reason, perhaps of several lines."""

    what: str
    why: str


class SupervisorFailed(Event, frozen=True):
    """The supervisor failed to do something, which is a fault of the server, and goes on; `what` completes: to ..."""

    what: str
    error: BaseException
