"""From settings and a handler to a plan: what the workers of one generation are made from.

Law: whatever can be refused is refused here, before a worker of the new generation exists; a refusal leaves what there
is as it was. The first plan and those of every reload are made by the same steps: settle, look at the handler, draw up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pronghorn import models, worker
from pronghorn.errors import AddressInUse, IncompatibleHandler, PronghornError
from pronghorn.events import Observer
from pronghorn.handlers import Facts, Source
from pronghorn.listener import Listener
from pronghorn.models.base import Model
from pronghorn.opening import open_listeners
from pronghorn.scoreboard import Scoreboard
from pronghorn.settings import Settings
from pronghorn.settings.layers import Layers
from pronghorn.worker import Plan

if TYPE_CHECKING:
    from pronghorn.certificates import Certificates

AT_START_ONLY = tuple("chdir control_socket group log_file log_format name pid_file reload umask user".split())
"""Settings that a reload cannot change: the supervisor has acted on them already."""


class Planner:
    """Makes plans for one server. `layers` are read anew for each; without them (a script that holds the handler) the
    settings stay. `explain` adds to an AddressInUse who holds the address; `relevel` sets the level of the log.
    """

    def __init__(
        self,
        layers: Layers | None,
        source: Any,
        settings: Settings,
        board: Scoreboard,
        observe: Observer,
        explain: Callable[[AddressInUse], AddressInUse],
    ) -> None:
        self._layers = layers
        self._source = source
        self._settings = settings
        self._board = board
        self._observe = observe
        self._explain = explain

    @property
    def rereads(self) -> bool:
        """Whether a reload finds new code: a handler that was given by name is imported anew."""
        return isinstance(self._source, Source)

    def settle(self) -> tuple[Any, Settings, tuple[str, ...]]:
        """The source and the settings as they are now, and the names of those that changed but wait for the next
        start. Raises BadSetting."""
        if self._layers is None:
            return self._source, self._settings, ()
        settled = self._layers.settle()
        later = tuple(
            name
            for name in AT_START_ONLY
            if getattr(settled.settings, name, None) != getattr(self._settings, name, None)
        )
        source = self._source if not self.rereads else settled.source
        return source, settled.settings, later

    def facts(self, source: Any, settings: Settings) -> Facts | None:
        """What is known of the handler without importing user code; None if that takes a probe."""
        if isinstance(source, Source) and source.is_users_code:
            return None
        return worker.load_handler(source, settings).facts

    def model(self, facts: Facts, settings: Settings) -> tuple[Model, str]:
        """As `judged`."""
        return judged(facts, settings)

    def plan(
        self, source: Any, settings: Settings, facts: Facts, keep: list[Listener], inherited: list[Listener]
    ) -> Plan:
        """A plan; its listeners are those of `keep` that are still wanted, those `inherited`, and new ones. Raises
        PronghornError, and then nothing new is open."""
        model, _ = self.model(facts, settings)
        certificates = certified(facts, settings)
        try:
            listeners = open_listeners(settings, self._observe, keep=keep, inherited=inherited)
        except AddressInUse as error:
            raise self._explain(error) from None
        return Plan(source, settings, model, listeners, self._observe, self._board, facts, certificates)


def judged(facts: Facts, settings: Settings) -> tuple[Model, str]:
    """The model, and why that one. Raises what can be refused without opening anything: BadSetting,
    IncompatibleHandler and MissingExtra."""
    name, why = settings.model, "as asked"
    if name == "auto":
        name, why = models.choose(facts)
    model = models.load(name)
    model.check(facts)
    model.check_settings(settings)
    return model, why


def certified(facts: Facts, settings: Settings) -> Certificates | None:
    """The certificates, if there is to be TLS; raises BadSetting, BadCertificate and IncompatibleHandler."""
    if not (settings.tls_cert or settings.tls_key or settings.tls_client_ca or settings.tls_alpn or settings.tls_watch):
        return None
    from pronghorn.certificates import Certificates

    if facts.style == "program":
        raise IncompatibleHandler(
            f"{facts.name!r} is of program style, which TLS cannot reach.",
            "A program has the connection itself as its input and output, and would read sealed bytes.",
            "Leave out --tls-cert, or put a program that speaks TLS in front.",
        )
    return Certificates(settings)


def told(error: PronghornError) -> str:
    """An error in one piece, for a record; one without a reason is explained by its hint."""
    return "\n".join(part for part in (error.what, error.why or error.hint) if part)
