"""The supervisor's side of `--shared-limits`: the process that shares limits with other hosts, and what it says.

Law: the process has the URL of the broker from an anonymous file, as the hub of the bus. What it says is for people.
"""

from __future__ import annotations

from typing import Any

from pronghorn.errors import BadSetting
from pronghorn.settings import Settings
from pronghorn.settings.admission import OFF
from pronghorn.settings.bus import broker_of
from pronghorn.supervisor.bus_side import CARRIER
from pronghorn.supervisor.side_process import SideProcess, SideProcesses

SILENCE = 5.0  # seconds without a sign of life, after which the process hangs and is replaced
NICENESS = 5  # who serves goes first
LIMITS, SHARED = "limits", "shared"
LONGEST = 300  # characters of why limits are not shared
PATIENCE = 4.0  # seconds at the end, for a goodbye to other hosts


def check(settings: Settings) -> None:
    """Raises BadSetting where there is nothing to share, or nothing to share it by."""
    if settings.shared_limits == OFF:
        return
    what = "--shared-limits bus needs a broker that all hosts have."
    if not broker_of(settings.bus):
        raise BadSetting(what, f"--bus is {settings.bus}.", "Name it: --bus redis://HOST, or nats://HOST")
    if not (settings.max_connections_per_source or settings.accept_rate):
        why = "There is neither --max-connections-per-source nor --accept-rate."
        raise BadSetting("--shared-limits has nothing to share.", why, "Set one of them, the same on all hosts.")


def limits(settings: Settings) -> list[int]:
    """What the process is told of the settings."""
    return [settings.max_connections_per_source, settings.accept_rate]


class LimitsSide:
    """The process, from now on. `carrier` is the broker's URL, `board` the scoreboard's descriptor."""

    def __init__(self, settings: Settings, carrier: str, board: int, sides: SideProcesses) -> None:
        self._carrier = carrier
        self._side = SideProcess(
            "shared-limits",
            "pronghorn.shared_limits",
            settings={LIMITS: limits(settings), CARRIER: carrier},
            descriptors={"board": board},
            hear=self._hear,
            leaves=True,
            silence=SILENCE,
            patience=PATIENCE,
            nice=NICENESS,
        )
        sides.add(self._side)

    def reloaded(self, settings: Settings, carrier: str) -> None:
        """The server has these limits now, and the URL may have another password."""
        told: dict[str, Any] = {LIMITS: limits(settings)}
        if carrier != self._carrier:
            told[CARRIER] = self._carrier = carrier
        for name, value in told.items():
            self._side.set(name, value)
        self._side.send(told)

    def _hear(self, message: dict[str, Any]) -> None:
        told = message.get(SHARED)
        if isinstance(told, dict):
            hosts, why = told.get("hosts"), told.get("why")
            up = told.get("up") is True and type(hosts) is int
            self._side.show(sharing={"up": up, "hosts": hosts if up else 1, "why": str(why)[:LONGEST]})
