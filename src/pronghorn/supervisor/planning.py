"""From settings and a handler to a plan: what the workers of one generation are made from.

Law: whatever can be refused is refused here, before a worker of the new generation exists; a refusal leaves what there
is as it was. The first plan and those of every reload are made by the same steps: settle, look at the handler, draw up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pronghorn import events
from pronghorn.errors import AddressInUse, BadSetting, IncompatibleHandler
from pronghorn.events import Event, Observer
from pronghorn.handlers import loading
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.handlers.loading import Asked
from pronghorn.listening.binding import Opened, open_served
from pronghorn.listening.listener import Listener
from pronghorn.models import registry
from pronghorn.models.model import Model
from pronghorn.scoreboard import sources
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.map import MOST_LISTENERS
from pronghorn.settings import Settings, fields
from pronghorn.settings.fields import RESTART
from pronghorn.settings.layers import Layers
from pronghorn.settings.services import Service, blamed, services
from pronghorn.settings.sockets import UNASKED
from pronghorn.settings.source import Source
from pronghorn.supervisor.listener_numbers import ListenerNumbers
from pronghorn.system import env_file
from pronghorn.system.descriptor_queue import DescriptorQueue
from pronghorn.system.helper import Answer
from pronghorn.system.log_file import open_access_log
from pronghorn.system.processors import processors
from pronghorn.worker_process.plan import Offered, Plan, PlannedService

if TYPE_CHECKING:
    from pronghorn.tls.certificates import Certificates
    from pronghorn.tls.key_files import Loaded

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
        tables = tuple({name: _as_settled(value) for name, value in each.items()} for each in read.settings.listeners)
        read.settings = msgspec.structs.replace(read.settings, listeners=tables)
        return read

    def answer(self) -> Answer:
        return msgspec.msgpack.encode(self), []


def _as_settled(value: Any) -> Any:
    """A listener's value, which has no type for msgspec: a tuple has come as a list."""
    return tuple(value) if isinstance(value, list) else value


class Prepared(msgspec.Struct):
    """What a helper says of the parts of a plan, as plain values: the certificates of each service; of each listener
    its place among those that were open, or -1, what is new of it, its service, and its name; and what was observed."""

    certificates: list[bytes | None]
    listeners: list[tuple[int, dict[str, Any] | None, int, str]]
    events: list[tuple[str, dict[str, Any]]]


class Planner:
    """Makes plans for one server. `layers` are read anew for each; without them (a script that holds the handler) the
    settings stay. `folder` is the working folder by its name, which may lead elsewhere by then. `explain` adds to an
    AddressInUse who holds the address. `held` are the handlers of listeners that a script holds, by
    the names that stand for them. `numbers` are where the scoreboard counts for each listener.
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
        *,
        held: Mapping[str, Any] | None = None,
        numbers: ListenerNumbers | None = None,
        bus: DescriptorQueue | None = None,
    ) -> None:
        self._layers = layers
        self._held = held or {}
        self._numbers = numbers or ListenerNumbers()
        self._source = source
        self._settings = settings
        self._board = board
        self._observe = observe
        self._explain = explain
        self._queue, self._bus = queue, bus
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
        later = _later(self._settings, settled.settings)
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

    def asked(self, source: Any, served: Sequence[Service]) -> list[Asked]:
        """What each service asks for, where `source` is the server's own handler."""
        return [Asked(self._held_or(each.source or source), each.settings, each.title) for each in served]

    def _held_or(self, source: Any) -> Any:
        return self._held.get(source.name, source) if isinstance(source, Source) else source

    def facts(self, asked: Sequence[Asked]) -> list[HandlerFacts] | None:
        """What is known of the handlers without importing user code; None if that takes a probe."""
        if loading.takes_probe(asked):
            return None
        return [each.facts for each in loading.load_all(asked)]

    def draft(
        self,
        source: Any,
        settings: Settings,
        asked: Sequence[Asked],
        facts: Sequence[HandlerFacts],
        folder: str,
        environment: dict[str, str],
    ) -> Plan:
        """A plan without listeners and certificates. Raises as `judged`."""
        model, _ = judged(asked, facts, settings)
        planned = tuple(PlannedService(*each[:2], known, each.title) for each, known in zip(asked, facts, strict=True))
        return Plan(
            source,
            settings,
            model,
            planned,
            [],
            [],
            self._observe,
            self._board,
            folder=folder,
            server=self._server,
            processors=processors().usable,
            environment=environment,
            queue=self._queue,
            bus=self._bus,
        )

    def plan(self, draft: Plan, served: Sequence[Service], inherited: list[Listener]) -> Plan:
        """The first plan; its listeners are those `inherited` that are wanted, and new ones. Raises PronghornError, and
        then nothing new is open. It may block: at the first start nothing else waits.
        """
        certificates = certified(draft.services)
        if any(limits_sources(each.settings) for each in served):
            sources.prepare()
        opened = self._opened(served, [], inherited, self._observe)
        self._server = self._server or opened[0].listener.address
        made = self._with_listeners(draft, served, opened)
        planned = _with_certificates(draft.services, certificates)
        return msgspec.structs.replace(made, services=planned, server=self._server)

    def _with_listeners(self, draft: Plan, served: Sequence[Service], opened: Sequence[Opened]) -> Plan:
        names = [each.name for each in opened]
        numbers = self._numbers.of(names) if draft.tells_listeners_apart(names) else {}
        for each in opened:
            if each.name not in numbers and (name := limited_alone(served[each.service].settings, draft.settings)):
                why = f"The scoreboard counts for {MOST_LISTENERS} listeners, and there were as many before."
                hint = "Restart the server, or leave the limit out."
                raise BadSetting(f"Listener {each.name!r} cannot have its own {name}.", why, hint)
            each.listener.title = served[each.service].name
        offered = [Offered(each.service, each.name, numbers.get(each.name, -1)) for each in opened]
        return msgspec.structs.replace(draft, listeners=[each.listener for each in opened], offered=offered)

    # A reload: what may block is done in a helper, and the supervisor makes a plan of what it sends back.

    def prepare(self, draft: Plan, served: Sequence[Service], keep: list[Listener]) -> Answer:
        """In a helper: the certificates of a plan, and its listeners: those of `keep` that are still wanted, and new
        ones. Raises as `plan`."""
        if draft.folder:
            os.chdir(draft.folder)
        if path := draft.access_log().path:
            os.close(open_access_log(path))
        loaded = [msgspec.msgpack.encode(each) if each is not None else None for each in read_files(draft.services)]
        for each in keep:
            each.take_over()  # to see whether a path is lost; here nothing is ever removed
        observed: list[Event] = []
        before = [each.identity for each in keep]
        opened = self._opened(served, keep, [], observed.append)
        prepared = Prepared(loaded, [], [(type(each).__name__, msgspec.structs.asdict(each)) for each in observed])
        descriptors: list[int] = []
        for each, service, name in opened:
            place = keep.index(each) if each in keep else -1
            new = place < 0 or each.identity != before[place]
            prepared.listeners.append((place, each.inherited() if new else None, service, name))
            descriptors += map(os.dup, each.descriptors() if new else ())  # a Listener closes its own at its end
        return msgspec.msgpack.encode(prepared), descriptors

    def drawn_up(self, draft: Plan, served: Sequence[Service], keep: list[Listener], answer: Answer) -> Plan:
        """The plan with what a helper has prepared."""
        prepared, descriptors = msgspec.msgpack.decode(answer[0], type=Prepared), iter(answer[1])
        opened = []
        for place, record, service, name in prepared.listeners:
            if record is not None:
                record["fd"] = next(descriptors)
                if record["claim"]:
                    record["claim"]["lock"] = next(descriptors)
            if place < 0:
                assert record is not None
                listener = Listener.adopt(record)
                listener.take_over()
            else:
                listener = keep[place]
                if record is not None:
                    listener.become(record)
            opened.append(Opened(listener, service, name))
        for name, facts_of in prepared.events:
            self._observe(getattr(events, name)(**facts_of))
        made = self._with_listeners(draft, served, opened)
        planned = _with_certificates(draft.services, _made_of(draft.services, prepared.certificates))
        return msgspec.structs.replace(made, services=planned)

    def _opened(
        self, served: Sequence[Service], keep: list[Listener], inherited: list[Listener], observe: Observer
    ) -> list[Opened]:
        try:
            return open_served(served, observe, keep=keep, inherited=inherited)
        except AddressInUse as error:
            raise self._explain(error) from None


def _later(before: Settings, after: Settings) -> tuple[str, ...]:
    """The settings that wait for the next start and have changed: of the server, or of an address that it had before
    (what an address is opened with stays)."""
    old = {address: each.settings for each in services(before) for _, address in each.bind}
    new = [(address, each.settings) for each in services(after) for _, address in each.bind]
    pairs = [(before, after), *((old[address], settings) for address, settings in new if address in old)]
    names = [each.name for each in fields() if each.at == RESTART]
    return tuple(name for name in names if any(getattr(one, name) != getattr(other, name) for one, other in pairs))


def judged(
    asked: Sequence[Asked | PlannedService], facts: Sequence[HandlerFacts], settings: Settings
) -> tuple[Model, str]:
    """The model for the handlers of all services, and why that one. Raises what can be refused without opening
    anything: BadSetting, IncompatibleHandler and MissingExtra."""
    name, why = settings.model, ASKED
    if name == "auto":
        name, why = registry.choose_for_all(facts) if len(facts) > 1 else registry.choose(facts[0])
    model = registry.load(name)
    for place, each in enumerate(asked):
        with blamed(each.title):
            registry.check(model, facts[place], [*facts[:place], *facts[place + 1 :]])
            registry.check_settings(model, each.settings)
    return model, why


def read_files(planned: Sequence[PlannedService]) -> list[Loaded | None]:
    """What the files of each service hold that has TLS; services with the same settings of TLS have the same. Raises
    BadSetting, BadCertificate and IncompatibleHandler."""
    found: dict[tuple[Any, ...], Loaded] = {}
    loaded: list[Loaded | None] = []
    for each in planned:
        with blamed(each.title):
            if not wants_tls(each.facts, each.settings):
                loaded.append(None)
                continue
            from pronghorn.tls import key_files

            key = _of_tls(each.settings)
            loaded.append(found.get(key) or found.setdefault(key, key_files.load(each.settings)))
    return loaded


def limits_sources(settings: Settings) -> bool:
    """Whether sources are told apart, by a hash that takes an import."""
    return bool(
        settings.max_connections_per_source or settings.accept_rate_per_source or settings.message_rate_per_source
    )


def certified(planned: Sequence[PlannedService]) -> list[Certificates | None]:
    """The certificates of each service that has TLS. Raises as `read_files`."""
    return _made_of(planned, read_files(planned))


def _made_of(planned: Sequence[PlannedService], loaded: Sequence[Loaded | bytes | None]) -> list[Certificates | None]:
    made: list[Certificates | None] = []
    found: dict[tuple[Any, ...], Certificates] = {}
    for each, one in zip(planned, loaded, strict=True):
        if one is None:
            made.append(None)
            continue
        from pronghorn.tls.certificates import Certificates
        from pronghorn.tls.key_files import Loaded

        key = _of_tls(each.settings)
        if key not in found:
            content = msgspec.msgpack.decode(one, type=Loaded) if isinstance(one, bytes) else one
            found[key] = Certificates(each.settings, content)
        made.append(found[key])
    return made


def _with_certificates(
    planned: Sequence[PlannedService], certificates: Sequence[Certificates | None]
) -> tuple[PlannedService, ...]:
    return tuple(
        msgspec.structs.replace(each, certificates=one) for each, one in zip(planned, certificates, strict=True)
    )


def _of_tls(settings: Settings) -> tuple[Any, ...]:
    return tuple(getattr(settings, each.name) for each in fields() if each.name.startswith("tls"))


def limited_alone(settings: Settings, whole: Settings) -> str:
    """The limit of a service that is counted on the scoreboard by its listener's number; empty if there is none."""
    for name in ("max_connections", "accept_rate"):
        if (own := getattr(settings, name)) and own != getattr(whole, name):
            return "--" + name.replace("_", "-")
    return ""


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
