"""Events: frozen records of what happened, which observers are called with.

Law: the core only ever calls `observe(event)`; it never logs, prints or counts for show. A record holds facts, no
sentences: observers choose the words. There is no event per message: messages are counted on their connection, and
the sums travel in `ConnectionClosed`.

Public are the classes of `PUBLIC`, for observers of the user's own (`--observer`, docs/observers.md): these classes and
their fields keep their names, types and meaning. Fields may be added, at the end and with defaults, and so may classes.
All other names here may change at any time.
"""

from __future__ import annotations

from pronghorn.events.base import Event as Event
from pronghorn.events.base import Observer as Observer
from pronghorn.events.connections import ChildDied as ChildDied
from pronghorn.events.connections import ConnectionClosed as ConnectionClosed
from pronghorn.events.connections import ConnectionNotTaken as ConnectionNotTaken
from pronghorn.events.connections import ConnectionOpened as ConnectionOpened
from pronghorn.events.connections import ConnectionRefused as ConnectionRefused
from pronghorn.events.connections import ConnectionTakenOver as ConnectionTakenOver
from pronghorn.events.connections import HandlerFailed as HandlerFailed
from pronghorn.events.connections import HandshakeFailed as HandshakeFailed
from pronghorn.events.connections import PeerFailed as PeerFailed
from pronghorn.events.connections import ProxyHeaderUnread as ProxyHeaderUnread
from pronghorn.events.connections import SlowMember as SlowMember
from pronghorn.events.server import AcceptFailed as AcceptFailed
from pronghorn.events.server import AccessLogDropped as AccessLogDropped
from pronghorn.events.server import AccessLogSet as AccessLogSet
from pronghorn.events.server import AdminOpened as AdminOpened
from pronghorn.events.server import BrokerFound as BrokerFound
from pronghorn.events.server import BrokerLost as BrokerLost
from pronghorn.events.server import BrokerPasswordRead as BrokerPasswordRead
from pronghorn.events.server import BusSocketMissing as BusSocketMissing
from pronghorn.events.server import CertificateExpires as CertificateExpires
from pronghorn.events.server import CertificateLoaded as CertificateLoaded
from pronghorn.events.server import CertificateRefused as CertificateRefused
from pronghorn.events.server import ClientsWait as ClientsWait
from pronghorn.events.server import ConnectionsKilled as ConnectionsKilled
from pronghorn.events.server import ControlAsked as ControlAsked
from pronghorn.events.server import ControlMissing as ControlMissing
from pronghorn.events.server import ListenerChanged as ListenerChanged
from pronghorn.events.server import ListenerOpened as ListenerOpened
from pronghorn.events.server import ListenerSkipped as ListenerSkipped
from pronghorn.events.server import LogLevelAsked as LogLevelAsked
from pronghorn.events.server import LogLevelSet as LogLevelSet
from pronghorn.events.server import LogNotReopened as LogNotReopened
from pronghorn.events.server import ModelChosen as ModelChosen
from pronghorn.events.server import ObserverFailed as ObserverFailed
from pronghorn.events.server import PathAtRisk as PathAtRisk
from pronghorn.events.server import Pulse as Pulse
from pronghorn.events.server import Reloaded as Reloaded
from pronghorn.events.server import ReloadFailed as ReloadFailed
from pronghorn.events.server import ReloadStarted as ReloadStarted
from pronghorn.events.server import ReloadWay as ReloadWay
from pronghorn.events.server import Resized as Resized
from pronghorn.events.server import SecretsExposed as SecretsExposed
from pronghorn.events.server import ServerStarted as ServerStarted
from pronghorn.events.server import ServerStopped as ServerStopped
from pronghorn.events.server import SideProcessEnded as SideProcessEnded
from pronghorn.events.server import SideProcessNotStarted as SideProcessNotStarted
from pronghorn.events.server import SideProcessSaid as SideProcessSaid
from pronghorn.events.server import SupervisorFailed as SupervisorFailed
from pronghorn.events.server import Upgraded as Upgraded
from pronghorn.events.server import UpgradeFailed as UpgradeFailed
from pronghorn.events.server import UpgradeStarted as UpgradeStarted
from pronghorn.events.server import WorkersChosen as WorkersChosen
from pronghorn.events.server import WorkersStarted as WorkersStarted
from pronghorn.events.workers import DrainDelayed as DrainDelayed
from pronghorn.events.workers import DrainFinished as DrainFinished
from pronghorn.events.workers import DrainStarted as DrainStarted
from pronghorn.events.workers import GoodbyesBegin as GoodbyesBegin
from pronghorn.events.workers import GoodbyesSaid as GoodbyesSaid
from pronghorn.events.workers import LifespanFailed as LifespanFailed
from pronghorn.events.workers import LoopFailed as LoopFailed
from pronghorn.events.workers import OldWorkerDrains as OldWorkerDrains
from pronghorn.events.workers import ReplacementsWait as ReplacementsWait
from pronghorn.events.workers import SignalsTaken as SignalsTaken
from pronghorn.events.workers import SlowCallback as SlowCallback
from pronghorn.events.workers import SlowCallbackEnded as SlowCallbackEnded
from pronghorn.events.workers import SourceSuspected as SourceSuspected
from pronghorn.events.workers import WorkerCrashed as WorkerCrashed
from pronghorn.events.workers import WorkerDebugged as WorkerDebugged
from pronghorn.events.workers import WorkerDoomed as WorkerDoomed
from pronghorn.events.workers import WorkerExited as WorkerExited
from pronghorn.events.workers import WorkerHandedOver as WorkerHandedOver
from pronghorn.events.workers import WorkerNotStarted as WorkerNotStarted
from pronghorn.events.workers import WorkerReady as WorkerReady
from pronghorn.events.workers import WorkerRetired as WorkerRetired
from pronghorn.events.workers import WorkerSilent as WorkerSilent
from pronghorn.events.workers import WorkerStarted as WorkerStarted
from pronghorn.events.workers import WorkLeft as WorkLeft

OF_WORKERS: tuple[type[Event], ...] = (
    ConnectionOpened,
    ConnectionClosed,
    ConnectionRefused,
    ConnectionTakenOver,
    HandshakeFailed,
    HandlerFailed,
    PeerFailed,
    ChildDied,
    SlowCallback,
    SlowCallbackEnded,
    LoopFailed,
    LifespanFailed,
    WorkLeft,
    DrainStarted,
    DrainFinished,
    AcceptFailed,
    ClientsWait,
    ProxyHeaderUnread,
)
"""Told in the worker that they happen in, or in the process of one connection, under the fork model."""
OF_SUPERVISOR: tuple[type[Event], ...] = (
    ServerStarted,
    ServerStopped,
    Resized,
    ReloadStarted,
    Reloaded,
    ReloadFailed,
    UpgradeStarted,
    Upgraded,
    UpgradeFailed,
    CertificateLoaded,
    CertificateExpires,
    CertificateRefused,
    WorkerStarted,
    WorkerReady,
    WorkerNotStarted,
    WorkerExited,
    WorkerSilent,
    WorkerRetired,
    ReplacementsWait,
    SourceSuspected,
)
"""Told in the process of observers, beside the supervisor."""
PUBLIC = (*OF_WORKERS, *OF_SUPERVISOR)
