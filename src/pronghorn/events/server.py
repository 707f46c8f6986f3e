"""Events of the server as a whole: its start and end, its listeners and certificates, reloads and upgrades."""

from __future__ import annotations

from pronghorn.events.base import Event

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
    `seconds` it lasts (keep: until old workers drain, infinite if never; spread: until the last goodbye). With `why`,
    no connection is handed over, and that is the reason."""

    on_reload: str
    seconds: float
    why: str = ""


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


class WorkersChosen(Event, frozen=True):
    """Why the server has so many `workers`, which it was left to choose (`--workers auto`) under `model`."""

    workers: int
    model: str
    why: str


class ControlMissing(Event, frozen=True):
    """There is no control socket, because no place for it could be had."""

    what: str
    why: str


class BusSocketMissing(Event, frozen=True):
    """There is no bus socket at `path`: other processes cannot publish."""

    path: str
    why: str


class BrokerPasswordRead(Event, frozen=True):
    """At a reload the file of the broker's password had another one, which the next connection to the broker will take;
    or, with `why`, it could not be read, and the password remains."""

    path: str
    why: str = ""


class BrokerLost(Event, frozen=True):
    """The broker of the bus is away: connections of other hosts are not reached. `broker` is its URL, without any
    secret."""

    broker: str
    why: str


class BrokerFound(Event, frozen=True):
    """The broker of the bus is there: for the first time, or again after `seconds`."""

    broker: str
    seconds: float


class ControlAsked(Event, frozen=True):
    """User `uid`, a member of the control `group`, has the server do this `command` of `pronghorn ctl`."""

    command: str
    uid: int
    group: str


class ConnectionsKilled(Event, frozen=True):
    """The operator has ended so many connections by `pronghorn ctl kill-connection`; `ids` are the first of them."""

    count: int
    ids: tuple[str, ...]


class LogLevelAsked(Event, frozen=True):
    """The operator has set the level of the log, in the place of `before`, by `pronghorn ctl log-level`."""

    level: str
    before: str


class PathAtRisk(Event, frozen=True):
    """The user whom workers serve as, `uid`, may change the file at `path`, which is the one of that `setting`."""

    path: str
    uid: int
    setting: str


class SecretsExposed(Event, frozen=True):
    """Every user of the machine may read the file of secrets at `path`, which a setting names: `flag`."""

    path: str
    flag: str = "--env-file"


class AccessLogSet(Event, frozen=True):
    """The access log of a generation: its `path`, absolute or `-`, empty for none, and its format. `planned`: the
    generation is about to be started; else it serves, or this worker is of it."""

    path: str
    form: str
    planned: bool = False


class AccessLogDropped(Event, frozen=True):
    """So many lines of the access log could not be written since the last such event, for one reason."""

    lines: int
    why: str


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
    """A listener is bound and listening; `address` is written as `--bind` takes it back. `tls`: it speaks TLS. `name`:
    what the settings call it."""

    address: str
    tls: bool = False
    name: str = ""


class ListenerChanged(Event, frozen=True):
    """A reload has changed when the connections of an open listener speak TLS: `tls` is on, starttls or off, as the
    setting; connections that are open stay as they are. `name`: what the settings call the listener."""

    address: str
    tls: str
    name: str = ""


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


class AdminOpened(Event, frozen=True):
    """The admin process answers at `address`, as the setting says that `kind` names: admin or agent_check. `public`:
    other machines may reach it."""

    address: str
    kind: str
    public: bool = False


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
    listeners yet, as when a conversation holds them. Of the connections `moved` went to the new generation, each after
    a `pause` in seconds at most, and `stayed` are with old workers: both only with --on-reload handover. Old workers
    had as many connections as are `left`, to which they say goodbye over `spread` seconds, if that is not 0."""

    generation: int
    seconds: float
    code: bool = True
    later: tuple[str, ...] = ()
    accepting: int = 0
    moved: int = 0
    stayed: int = 0
    pause: float = 0.0
    left: int = 0
    spread: float = 0.0


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


# Side processes.


class SideProcessSaid(Event, frozen=True):
    """What the side process `name` has for the log, perhaps of several lines; `level` is one of the log's."""

    name: str
    level: str
    text: str


class SideProcessEnded(Event, frozen=True):
    """The side process `name` has died, with an exit code or minus a signal; another starts after `pause` seconds."""

    name: str
    pid: int
    status: int
    pause: float


class SideProcessNotStarted(Event, frozen=True):
    """The side process `name` could not be started, for the reason `why`; the next attempt is in `pause` seconds."""

    name: str
    why: str
    pause: float
