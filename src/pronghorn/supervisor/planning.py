"""From settings and a handler to a plan: what the workers of one generation are made from.

Law: whatever can be refused is refused here, before a worker of the new generation exists; a refusal leaves what there
is as it was. The first plan and those of every reload are made by the same steps: settle, look at the handler, draw up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from pronghorn import events
from pronghorn.errors import AddressInUse, BadSetting, IncompatibleHandler
from pronghorn.events import Event, Observer
from pronghorn.handlers import loading
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.listening.binding import open_listeners
from pronghorn.listening.listener import Listener
from pronghorn.models import registry
from pronghorn.models.model import Model
from pronghorn.scoreboard import sources
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.settings import Settings, fields
from pronghorn.settings.fields import RESTART
from pronghorn.settings.layers import Layers
from pronghorn.settings.sockets import UNASKED
from pronghorn.settings.source import Source
from pronghorn.system import env_file
from pronghorn.system.descriptor_queue import DescriptorQueue
from pronghorn.system.helper import Answer
from pronghorn.system.processors import processors
from pronghorn.worker_process.plan import Plan

if TYPE_CHECKING:
    from pronghorn.tls.certificates import Certificates

ASKED = "as asked"  # why a model: the user has chosen it


class Read(msgspec.Struct):
    """What a reload has read: the settings, the handler's source (None: it stays what it is), and the names of those
    settings that changed but wait for the next start."""

    settings: Settings
    source: Source | None
    later: tuple[str, ...]
    unasked: bool = False
    """`bind` is not set."""
    folder: str = ""
    """What the working folder's name leads to now, if that is another folder than at the start."""
    environment: dict[str, str] = {}

    @classmethod
    def of(cls, answer: Answer) -> Read:
        read = msgspec.msgpack.decode(answer[0], type=cls)
        if read.unasked:
            read.settings = msgspec.structs.replace(read.settings, bind=UNASKED)
        return read

    def answer(self) -> Answer:
        return msgspec.msgpack.encode(self), []


class Prepared(msgspec.Struct):
    """What a helper says of the parts of a plan, as plain values. A listener is its place among those that were open,
    or -1, and what is new of it; `events` are what it observed."""

    certificates: bytes | None
    listeners: list[tuple[int, dict[str, Any] | None]]
    events: list[tuple[str, dict[str, Any]]]


class Planner:
    """Makes plans for one server. `layers` are read anew for each; without them (a script that holds the handler) the
    settings stay. `folder` is the working folder by its name, which may lead elsewhere by then. `explain` adds to an
    AddressInUse who holds the address.
    """

    def __init__(
        self,
        layers: Layers | None,
        source: Any,
        settings: Settings,
        board: Scoreboard,
        observe: Observer,
        explain: Callable[[AddressInUse], AddressInUse],
        folder: str = "",
        queue: DescriptorQueue | None = None,
    ) -> None:
        self._layers = layers
        self._source = source
        self._settings = settings
        self._board = board
        self._observe = observe
        self._explain = explain
        self._queue = queue
        self._folder = folder
        self._server = settings.name  # without one it is the first address, once that is known

    @property
    def rereads(self) -> bool:
        """Whether a reload finds new code: a handler that was given by name is imported anew."""
        return isinstance(self._source, Source)

    def settle(self) -> Read:
        """The source and the settings as they are now. Raises BadSetting."""
        if self._layers is None:
            return Read(self._settings, None, (), environment=env_file.read(self._settings))
        folder = self._entered() if self.rereads and self._folder else ""
        settled = self._layers.settle()
        later = tuple(
            each.name
            for each in fields()
            if each.at == RESTART and getattr(settled.settings, each.name) != getattr(self._settings, each.name)
        )
        source = settled.source if self.rereads else None
        environment = env_file.read(settled.settings)
        return Read(settled.settings, source, later, settled.settings.bind is UNASKED, folder, environment)

    def _entered(self) -> str:
        """The folder that the working folder's name leads to now, entered; empty if it is the working one still."""
        try:
            same = os.path.samefile(self._folder, ".")
            os.chdir(self._folder)
            return "" if same else os.getcwd()
        except OSError as error:
            why = f"{error.strerror}."
            raise BadSetting(f"The working folder {self._folder} cannot be entered.", why, "Make it again.") from None

    def source_of(self, read: Read) -> Any:
        """The handler's source: one that a script holds is in no message."""
        return self._source if read.source is None else read.source

    def facts(self, source: Any, settings: Settings) -> HandlerFacts | None:
        """What is known of the handler without importing user code; None if that takes a probe."""
        if isinstance(source, Source) and source.is_users_code:
            return None
        return loading.load_handler(source, settings).facts

    def draft(
        self, source: Any, settings: Settings, facts: HandlerFacts, folder: str, environment: dict[str, str]
    ) -> Plan:
        """A plan without listeners and certificates. Raises as `judged`."""
        model, _ = judged(facts, settings)
        return Plan(
            source,
            settings,
            model,
            [],
            self._observe,
            self._board,
            facts,
            folder=folder,
            server=self._server,
            processors=processors().usable,
            environment=environment,
            queue=self._queue,
        )

    def plan(
        self,
        source: Any,
        settings: Settings,
        facts: HandlerFacts,
        inherited: list[Listener],
        environment: dict[str, str],
    ) -> Plan:
        """The first plan; its listeners are those `inherited` that are wanted, and new ones. Raises PronghornError, and
        then nothing new is open. It may block: at the first start nothing else waits.
        """
        draft = self.draft(source, settings, facts, "", environment)
        certificates = certified(facts, settings)
        if settings.max_connections_per_source:
            sources.prepare()
        listeners = self._listeners(settings, [], inherited, self._observe)
        self._server = self._server or listeners[0].address
        return msgspec.structs.replace(draft, listeners=listeners, certificates=certificates, server=self._server)

    # A reload: what may block is done in a helper, and the supervisor makes a plan of what it sends back.

    def prepare(self, draft: Plan, keep: list[Listener]) -> Answer:
        """In a helper: the certificates of a plan, and its listeners: those of `keep` that are still wanted, and new
        ones. Raises as `plan`."""
        if draft.folder:
            os.chdir(draft.folder)
        loaded = None
        if wants_tls(draft.facts, draft.settings):
            from pronghorn.tls import key_files

            loaded = msgspec.msgpack.encode(key_files.load(draft.settings))
        for each in keep:
            each.take_over()  # to see whether a path is lost; here nothing is ever removed
        observed: list[Event] = []
        before = [each.identity for each in keep]
        listeners = self._listeners(draft.settings, keep, [], observed.append)
        prepared = Prepared(loaded, [], [(type(each).__name__, msgspec.structs.asdict(each)) for each in observed])
        descriptors: list[int] = []
        for each in listeners:
            place = keep.index(each) if each in keep else -1
            new = place < 0 or each.identity != before[place]
            prepared.listeners.append((place, each.inherited() if new else None))
            descriptors += map(os.dup, each.descriptors() if new else ())  # a Listener closes its own at its end
        return msgspec.msgpack.encode(prepared), descriptors

    def drawn_up(self, draft: Plan, keep: list[Listener], answer: Answer) -> Plan:
        """The plan with what a helper has prepared."""
        prepared, descriptors = msgspec.msgpack.decode(answer[0], type=Prepared), iter(answer[1])
        listeners = []
        for place, record in prepared.listeners:
            if record is not None:
                record["fd"] = next(descriptors)
                if record["claim"]:
                    record["claim"]["lock"] = next(descriptors)
            if place < 0:
                assert record is not None
                listeners.append(Listener.adopt(record))
                listeners[-1].take_over()
            else:
                listeners.append(keep[place])
                if record is not None:
                    keep[place].become(record)
        for name, facts_of in prepared.events:
            self._observe(getattr(events, name)(**facts_of))
        certificates = None
        if prepared.certificates is not None:
            from pronghorn.tls.certificates import Certificates
            from pronghorn.tls.key_files import Loaded

            certificates = Certificates(draft.settings, msgspec.msgpack.decode(prepared.certificates, type=Loaded))
        return msgspec.structs.replace(draft, listeners=listeners, certificates=certificates)

    def _listeners(
        self, settings: Settings, keep: list[Listener], inherited: list[Listener], observe: Observer
    ) -> list[Listener]:
        try:
            return open_listeners(settings, observe, keep=keep, inherited=inherited)
        except AddressInUse as error:
            raise self._explain(error) from None


def judged(facts: HandlerFacts, settings: Settings) -> tuple[Model, str]:
    """The model, and why that one. Raises what can be refused without opening anything: BadSetting,
    IncompatibleHandler and MissingExtra."""
    name, why = settings.model, ASKED
    if name == "auto":
        name, why = registry.choose(facts)
    model = registry.load(name)
    registry.check(model, facts)
    registry.check_settings(model, settings)
    return model, why


def certified(facts: HandlerFacts, settings: Settings) -> Certificates | None:
    """The certificates, if there is to be TLS; raises BadSetting, BadCertificate and IncompatibleHandler."""
    if not wants_tls(facts, settings):
        return None
    from pronghorn.tls.certificates import Certificates

    return Certificates(settings)


def wants_tls(facts: HandlerFacts, settings: Settings) -> bool:
    """Whether there is to be TLS; raises IncompatibleHandler."""
    given = settings.tls_cert or settings.tls_key or settings.tls_client_ca or settings.tls_alpn or settings.tls_watch
    if settings.tls == "off" or not (given or settings.tls == "starttls"):
        return False
    if facts.style == "program":
        raise IncompatibleHandler(
            f"{facts.name!r} is of program style, which TLS cannot reach.",
            "A program has the connection itself as its input and output, and would read sealed bytes.",
            "Leave out --tls-cert, or put a program that speaks TLS in front.",
        )
    return True
