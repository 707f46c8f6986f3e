"""The admin process as the server has it: its listeners, its start, and what the supervisor answers to it.

Law: the supervisor opens the listeners, hands them on at an upgrade and closes them at the very end; it never accepts
there. What the admin process asks is answered by the commands of the control socket: those that only look, and, with
`--admin-write`, all but to stop the server. A process that was broken into by way of its port can do no more than that.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from pronghorn import events
from pronghorn.control.callers import ONLY_LOOK
from pronghorn.control.protocol import CommandSet, understood
from pronghorn.errors import AddressInUse, BadRequest, BadSetting, CannotBind, MissingExtra, PronghornError
from pronghorn.events import Event, Observer
from pronghorn.listening.addresses import parse_bind, places, refuse_overlaps
from pronghorn.listening.binding import check_binds, open_listeners
from pronghorn.listening.conflicts import explained
from pronghorn.listening.listener import Listener
from pronghorn.settings import Settings, fields, unreadable
from pronghorn.settings.metrics import check_statsd
from pronghorn.settings.services import services
from pronghorn.supervisor.health import health
from pronghorn.supervisor.side_process import SideProcess
from pronghorn.supervisor.supervisor import Supervisor
from pronghorn.system import trusted_paths
from pronghorn.system.memory import anonymous_file
from pronghorn.system.record_copies import Copies
from pronghorn.system.side_boot import CHANGED

ADMIN, AGENT = "admin", "agent_check"
MOST_QUESTIONS = 200  # in a second: several times as many as it has use for
SILENCE = 30.0  # seconds after which an admin process hangs: it gives a sign of life every few
NICENESS = 5  # who serves goes first
OTLP = "opentelemetry.exporter.otlp.proto.http"
EXTRA = ("h11", "prometheus_client")
MAY_WRITE = ONLY_LOOK | {"reload", "resize", "drain", "kill-connection"}
SHORTEST_TOKEN, LONGEST_TOKEN = 16, 512  # characters
TOKEN_HINT = "Make one: (umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE)"


def check(settings: Settings) -> None:
    """Raises MissingExtra where the settings ask for what is not installed, BadSetting for a token that cannot be; and
    as `check_addresses`."""
    missing = [name for name in EXTRA if settings.admin and importlib.util.find_spec(name) is None]
    if missing:
        what = f"--admin needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}."
        raise MissingExtra(what, "The extra admin is not installed.", "Install it: pip install 'pronghorn[admin]'")
    if settings.otel and not _is_there(OTLP):
        what = f"--otel needs the package {OTLP.replace('.', '-')}."
        raise MissingExtra(what, "The extra otel is not installed.", "Install it: pip install 'pronghorn[otel]'")
    check_statsd(settings)
    token_of(settings)
    if settings.admin or settings.agent_check:
        check_addresses(settings)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # a package above it is missing
        return False


def token_of(settings: Settings) -> str:
    """The token of `--admin-token-file`, empty without `--admin-write`. Raises BadSetting, in which no token is."""
    if not settings.admin_write:
        return ""
    if not settings.admin or not settings.admin_token_file:
        missing = "--admin-token-file" if settings.admin else "--admin"
        hint = TOKEN_HINT if settings.admin else "Say where: --admin 127.0.0.1:9901"
        raise BadSetting(f"--admin-write needs {missing}.", "It lets people change the server by that port.", hint)
    what = f"--admin-token-file is {settings.admin_token_file!r}."
    try:
        raw = trusted_paths.read(settings.admin_token_file, LONGEST_TOKEN + 3).strip()
    except OSError as error:
        hint = "Name a file that the server may read."
        raise BadSetting(what, unreadable.why(settings.admin_token_file, error), hint) from None
    if not SHORTEST_TOKEN <= len(raw) <= LONGEST_TOKEN or not all(33 <= each <= 126 for each in raw):
        why = f"It does not hold one line of {SHORTEST_TOKEN} to {LONGEST_TOKEN} printable ASCII characters."
        raise BadSetting(what, why, TOKEN_HINT)
    return raw.decode("ascii")


def changed(settings: Settings) -> dict[str, str]:
    """The settings that are not their defaults, as people write them; paths of secrets, but no secret, among them."""
    found = {}
    for field in fields():
        value = getattr(settings, field.name)
        if value != field.default:
            found[field.flag] = field.shown(value)
    return found


class AdminProcess:
    """The listeners of the admin process, and the process. `handed` are the listeners of the program before an upgrade;
    `copies` is where the log shall send copies of its records to, if anywhere. Raises BadSetting,
    AddressInUse and CannotBind; nothing is left open then."""

    def __init__(
        self,
        settings: Settings,
        observe: Observer,
        handed: Sequence[dict[str, Any]] = (),
        statsd: int = -1,
    ) -> None:
        self._settings = settings
        self._token = token_of(settings)
        self.copies = Copies() if settings.admin else None
        self._statsd = statsd  # a file of what StatsD was told
        if settings.statsd and statsd < 0:
            self._statsd = anonymous_file("statsd")
        self._second, self._questions = 0.0, 0
        self._opened: dict[str, list[Listener]] = {}
        self._spare = [Listener.adopt(each) for each in handed]
        with ExitStack() as undo:
            undo.callback(self.close)
            for name in (ADMIN, AGENT):
                self._opened[name] = self._open(name, observe)
            undo.pop_all()

    def _open(self, name: str, observe: Observer) -> list[Listener]:
        """The listeners of a setting that has addresses."""
        if not getattr(self._settings, name):
            return []
        with blamed_on(name):
            asked = as_bound(self._settings, name)
            opened = open_listeners(asked, told(name, self._settings, observe), inherited=self._spare)
        self._spare = [each for each in self._spare if each not in opened]
        return opened

    def addresses(self) -> dict[str, list[str]]:
        """Where it answers, by the setting that says so."""
        return {name: [each.address for each in listeners] for name, listeners in self._opened.items() if listeners}

    def start(self, supervisor: Supervisor, commands: CommandSet) -> None:
        """Has the supervisor start the process, which asks `commands`."""
        prefixes = {ADMIN: "http", AGENT: "agent"}
        descriptors = {
            f"{prefixes[name]}{place}": listener.fileno()
            for name, listeners in self._opened.items()
            for place, listener in enumerate(listeners)
        }
        descriptors["board"] = supervisor.fleet.serving.plan.board.fileno()
        asked = self._settings
        settings: dict[str, Any] = {"name": supervisor.fleet.serving.plan.server, "token": self._token}
        settings[CHANGED] = changed(asked)
        settings["agent_check_drain"] = asked.agent_check_drain
        if asked.statsd:
            settings["statsd"] = [asked.statsd, asked.statsd_prefix, asked.statsd_tags]
            descriptors["statsd"] = self._statsd
        if self.copies is not None:
            descriptors["records"] = self.copies.reader
        side = SideProcess(
            "admin",
            "pronghorn.admin.otel" if asked.otel else "pronghorn.admin",
            settings=settings,
            descriptors=descriptors,
            shown=self.addresses(),
            hear=lambda message: self._answer(message, side, supervisor, commands),
            leaves=True,
            silence=SILENCE,
            nice=NICENESS,
        )
        self._side = side
        supervisor.sides.add(side)

    def reloaded(self, settings: Settings) -> None:
        """The server has these settings now. What the process itself was started with does not change."""
        shown = changed(settings)
        self._side.set(CHANGED, shown)
        self._side.send({CHANGED: shown})

    def state_changed(self) -> None:
        """What the process knows of the supervisor's state is out of date."""
        self._side.send({"state": "changed"})

    def _answer(self, message: dict[str, Any], side: SideProcess, supervisor: Supervisor, commands: CommandSet) -> None:
        number = message.pop("id", None)
        if type(number) is not int:
            return
        process = side.pid

        def done(result: dict[str, Any] | PronghornError) -> None:
            if side.pid == process:  # another one has other questions
                good = not isinstance(result, PronghornError)
                side.send({"id": number, "ok": good, **({"result": result} if good else {"error": parts(result)})})

        if not self._may_ask():
            return done(BadRequest("The admin process asks too much.", f"It may ask {MOST_QUESTIONS} times a second."))
        if message == {"command": "health"}:
            return done(health(supervisor))
        try:
            command, arguments = understood(msgspec.json.encode(message))
            if command not in (MAY_WRITE if self._token else ONLY_LOOK):
                raise BadRequest(f"The admin port may not {command}.", "It only looks." * (not self._token))
            getattr(commands, command.replace("-", "_"))(*arguments, done)
        except PronghornError as error:
            done(error)

    def _may_ask(self) -> bool:
        """Whether the questions of this second are still so few that they cost the supervisor next to nothing."""
        now = time.monotonic()
        if now >= self._second + 1.0:
            self._second, self._questions = now, 0
        self._questions += 1
        return self._questions <= MOST_QUESTIONS

    # Listeners

    def listeners(self) -> Iterator[Listener]:
        """Those that are open, and those before an upgrade that are wanted no more."""
        for each in self._opened.values():
            yield from each
        yield from self._spare

    def inherited(self) -> list[dict[str, Any]]:
        """What `handed` is in the new program of an upgrade."""
        return [each.inherited() for opened in self._opened.values() for each in opened]

    def descriptors(self) -> list[int]:
        """What no worker keeps, and an upgrade hands on."""
        own = [self._statsd] if self._statsd >= 0 else []
        return [*own, *(fd for each in self.listeners() for fd in each.descriptors())]

    @property
    def statsd(self) -> int:
        """The file of what StatsD was told, or -1: an upgrade hands it on."""
        return self._statsd

    def take_over(self) -> None:
        """This program serves: the paths of unix sockets are its own."""
        for each in self.listeners():
            each.take_over()
        for each in self._spare:
            each.close()
        self._spare = []

    def hand_over(self) -> None:
        """The new program of an upgrade serves."""
        for each in self.listeners():
            each.hand_over()

    def close(self) -> None:
        """Closes the listeners."""
        for each in self.listeners():
            each.close()
        self._opened, self._spare = {}, []
        if self.copies is not None:
            self.copies.close()


def check_addresses(settings: Settings) -> None:
    """Raises BadSetting and CannotBind for addresses of the admin process that can never be bound, or that the server
    has for its clients."""
    binds = [(each.title, parse_bind(text)) for each in services(settings) for _, text in each.bind]
    for name in (ADMIN, AGENT):
        for text in getattr(settings, name):
            if "," in text or ("://" in text and not text.startswith("fd://")):
                why = "It takes an address alone, and what answers there speaks no TLS."
                raise BadSetting(f"{flag_of(name)} is {text!r}.", why, "For example: 127.0.0.1:9901, or unix:PATH.")
        if getattr(settings, name):
            with blamed_on(name):
                check_binds(as_bound(settings, name))
            binds += [(flag_of(name), parse_bind(text)) for text in getattr(settings, name)]
    refuse_overlaps([(title, bind, places(bind)) for title, bind in binds if not bind.fd])


def as_bound(settings: Settings, name: str) -> Settings:
    """Settings by which the addresses of a setting are opened."""
    bind = getattr(settings, name)
    return msgspec.structs.replace(settings, bind=bind, listeners=(), tls="off", reuse_port=False, backlog=0)


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@contextmanager
def blamed_on(name: str) -> Iterator[None]:
    """Errors of `--bind` tell of this setting, and of who holds an address that is taken."""
    try:
        yield
    except (BadSetting, CannotBind) as error:
        blamed = explained(error) if isinstance(error, AddressInUse) else error
        known = (blamed.what, blamed.why, blamed.hint)
        blamed.what, blamed.why, blamed.hint = (part.replace("--bind", flag_of(name)) for part in known)
        raise blamed from None


def parts(result: Any) -> dict[str, Any]:
    error: PronghornError = result
    return error.parts(kind=True)


def told(name: str, settings: Settings, observe: Observer) -> Observer:
    """Observes a listener of the admin process that was opened as what it is."""

    def observed(event: Event) -> None:
        if isinstance(event, events.ListenerOpened):
            event = events.AdminOpened(event.address, name, is_public(event.address))
        observe(event)

    return observed


def is_public(address: str) -> bool:
    """Whether other machines reach it."""
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a path
