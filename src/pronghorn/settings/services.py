"""Services: what is served where. Each has a handler and settings, which are the server's but for what a listener says.

Law: pure. The settings of a service are whole: whoever serves by them never asks the server's again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from pronghorn.errors import BadSetting, PronghornError
from pronghorn.settings import Settings, fields
from pronghorn.settings.listeners import BIND, EXEC, HANDLER, NAME, options_of, refuse_twice, source_of
from pronghorn.settings.sockets import UNASKED
from pronghorn.settings.source import Source

SCHEMES = {"tcp://": "off", "tls://": "on"}
OF_THE_HANDLER = ("style", "framing", "factory")  # with a handler of its own, a listener has none of the server's
OF_THE_CERTIFICATE = ("tls_key", "tls_key_pass_file", "tls_key_pass_env")
OF_TLS = "tls_cert tls_key tls_key_pass_file tls_key_pass_env tls_client_ca tls_client_cert tls_alpn tls_watch".split()


class Service(msgspec.Struct, frozen=True):
    """What is served at the addresses of `bind`, each with its place among all. `settings` are whole; `source` is None
    where the handler is the server's. Without a `name` each listener goes by its address. One that is not `own` has the
    addresses for which nothing is said."""

    name: str
    bind: tuple[tuple[int, str], ...]
    settings: Settings
    source: Source | None = None
    own: bool = True

    @property
    def title(self) -> str:
        """How messages call it; empty for what is the server's own."""
        return title_of(self.name or self.bind[0][1]) if self.own else ""


def title_of(name: str) -> str:
    """How messages call a listener."""
    return f"Listener {name!r}"


@contextmanager
def blamed(title: str) -> Iterator[None]:
    """Whatever is refused within is refused because of the listener of this title."""
    try:
        yield
    except PronghornError as error:
        if title:
            error.what = f"{title}: {error.what}"
        raise


def services(settings: Settings) -> tuple[Service, ...]:
    """All of them, the server's own first. Raises BadSetting for settings that do not fit together."""
    known = {field.name: field for field in fields()}
    tables = {each.get(NAME, ""): each for each in settings.listeners if NAME in each}
    plain: list[tuple[int, str]] = []
    own: list[tuple[list[tuple[int, str]], dict[str, Any]]] = []
    taken: set[str] = set()
    asked = settings.bind if settings.bind is not UNASKED or not settings.listeners else ()
    for place, text in enumerate(asked):
        address, options = options_of(text, known)
        options.pop(BIND, None)
        scheme = SCHEMES.get(address[:6], "")
        if scheme and scheme != ("on" if settings.tls_at_once else "off"):
            options.setdefault("tls", scheme)
        if not options:
            plain.append((place, address))
            continue
        name = options.get(NAME, "")
        if name in taken or (name in tables and tables[name].get(BIND) != ()):
            refuse_twice(name)
        taken |= {name} - {""}
        own.append(([(place, address)], {**tables.get(name, {}), **options}))
    for table in settings.listeners:
        bind = table.get(BIND, (f"fd://{table.get(NAME)}",))
        places = [(len(asked) + len(own) + place, each) for place, each in enumerate(bind)]
        if places:
            own.append((places, table))
    return _together(settings, plain, own)


def _together(
    settings: Settings, plain: list[tuple[int, str]], own: list[tuple[list[tuple[int, str]], dict[str, Any]]]
) -> tuple[Service, ...]:
    found = []
    if plain or not own:
        found.append(Service("", tuple(plain), msgspec.structs.replace(settings, listeners=()), own=False))
    for places, table in own:
        source = source_of(table, f"listener {table.get(NAME, '')!r}")
        mine = _effective(settings, table, places, source)
        found.append(Service(table.get(NAME, ""), tuple(places), mine, source))
    any_tls = any(_has_tls(each.settings) for each in found)
    return tuple(msgspec.structs.replace(each, settings=_settled(each.settings, any_tls)) for each in found)


def _effective(
    settings: Settings, table: dict[str, Any], places: list[tuple[int, str]], source: Source | None
) -> Settings:
    defaults = {each.name: each.default for each in msgspec.structs.fields(Settings)}
    own = {key: value for key, value in table.items() if key not in (NAME, BIND, HANDLER, EXEC)}
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
    if source is not None:
        own = {each: defaults[each] for each in OF_THE_HANDLER} | own
    if "tls_cert" in own:
        own = {each: defaults[each] for each in OF_THE_CERTIFICATE} | {"tls": "on"} | own
    schemes = {SCHEMES.get(address[:6], "") for _, address in places} - {""}
    if len(schemes) == 1:
        own = {"tls": schemes.pop()} | own
    bind = tuple(address for _, address in places)
    made = msgspec.structs.replace(settings, bind=bind, listeners=(), **own)
    if own.get("tls", "off") != "off" and not made.tls_cert:
        what = f"Listener {table.get(NAME, bind[0])!r} is to speak TLS (tls={own['tls']})."
        raise BadSetting(what, "There is no certificate.", "Add tls-cert and tls-key, there or for the whole server.")
    return made


def _has_tls(settings: Settings) -> bool:
    return bool(settings.tls_cert) and settings.tls != "off"


def _settled(settings: Settings, any_tls: bool) -> Settings:
    """Without a trace of TLS where there is none: what the server says of it is for others then."""
    if _has_tls(settings) or (settings.tls != "off" and not any_tls):
        return settings
    defaults = {each.name: each.default for each in msgspec.structs.fields(Settings)}
    return msgspec.structs.replace(settings, **{each: defaults[each] for each in OF_TLS})
