"""Events of a worker, told by the worker itself or by its supervisor."""

from __future__ import annotations

from pronghorn.events.base import Event

# A worker.


class DrainStarted(Event, frozen=True):
    """Nothing new is accepted; the connections that are `open` have `seconds` to finish."""

    why: str
    seconds: float
    open: int


class DrainDelayed(Event, frozen=True):
    """The server says from here on that it is not ready, and goes on accepting for `seconds` (--drain-delay); then it
    drains, and `stops`, unless only its workers are to leave."""

    why: str
    seconds: float
    stops: bool = True


class DrainFinished(Event, frozen=True):
    """A worker's drain is over; `cut` connections did not finish in time, the first of them those of `cut_off`: each
    peer, and how many seconds it had been connected. Their handler is of this `style`."""

    cut: int
    seconds: float
    cut_off: tuple[tuple[tuple[str, int] | str, float], ...] = ()
    style: str = ""


class GoodbyesBegin(Event, frozen=True):
    """A worker says goodbye to its `open` connections, one after the other, over so many seconds."""

    open: int
    seconds: float


class GoodbyesSaid(Event, frozen=True):
    """A worker has said goodbye to `said` connections, and `left` go on: they had no quiet moment, or their handler
    wants to stay."""

    said: int
    left: int


class LoopFailed(Event, frozen=True):
    """Something that a worker's loop called raised, which it must not; the loop goes on."""

    error: BaseException


class SlowCallback(Event, frozen=True):
    """A callback has held up the loop of this worker for so many `seconds`, and still does: told while it lasts, by a
    thread beside the loop. It runs for the connection of this `number`; 0: for none, or it is not known for which.
    `place` is a line of the user's code, `file:line in function`; `stack` are the frames, the innermost last."""

    number: int
    peer: tuple[str, int] | str
    seconds: float
    place: str
    stack: str
    listener: str = ""
    id: str = ""


class SlowCallbackEnded(Event, frozen=True):
    """The callback of a SlowCallback is over, and took so many `seconds` in all."""

    number: int
    peer: tuple[str, int] | str
    seconds: float
    place: str
    listener: str = ""
    id: str = ""


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


class WorkerHandedOver(Event, frozen=True):
    """An old worker has offered its connections to those that serve: `moved` of them are there, each after `pause`
    seconds at most; the others go on with it, so many for each reason."""

    slot: int
    pid: int
    moved: int
    pause: float
    stay: tuple[tuple[str, int], ...] = ()


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
