"""`pronghorn check`: would serve start? Everything that can be found out without binding an address.

Law: nothing is bound, not even for a moment: a listener that is opened and closed beside a running server can lose that
server's clients (nginx, ticket 1300). Nor are a running server's files written: its log and its process id file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import rich_click as click

from pronghorn.cli.layers import print_json, takes_json, takes_layers
from pronghorn.errors import BadSetting
from pronghorn.settings import Settings
from pronghorn.settings.broker_url import hidden
from pronghorn.settings.layers import Layers, Settled
from pronghorn.settings.services import services

if TYPE_CHECKING:
    from pronghorn.handlers.handler import HandlerFacts
    from pronghorn.handlers.loading import Asked


@takes_layers("check")
@takes_json
def command(layers: Layers, as_json: bool) -> None:
    """Check settings and handler as serve would: the handler is imported, its lifespan is not entered, and nothing is
    bound. An address where a process listens at this moment is told of, and no error. The exit status is 0, 2 for a
    wrong setting or a model that cannot run the handler, 3 for an import that takes too long, 4 for a handler that
    cannot be imported, 5 for an address that can never be bound."""
    found = examined(layers.settle())
    if as_json:
        print_json(found)
    else:
        click.echo(sentence(found))


def examined(settled: Settled) -> dict[str, Any]:
    """What would be served; raises PronghornError for the first thing that would keep serve from starting."""
    from pronghorn.handlers.loading import Asked
    from pronghorn.listening.binding import check_binds
    from pronghorn.listening.unix_path import owner_of
    from pronghorn.supervisor.planning import judged, read_files
    from pronghorn.system.processors import processors
    from pronghorn.system.startup import ProcessSetup
    from pronghorn.worker_process.plan import PlannedService

    settings, served = settled.settings, services(settled.settings)
    asked = [Asked(each.source or settled.source, each.settings, each.title) for each in served]
    with ProcessSetup(msgspec.structs.replace(settings, log_file="", pid_file="")):
        facts = looked_at(asked, settings)
        model, why = judged(asked, facts, settings)
        loaded = read_files([PlannedService(*one[:2], known, one[2]) for one, known in zip(asked, facts, strict=True)])
        check_binds(settings)
        check_beside(settings)
        for each in served:
            owner_of(each.settings.unix_owner)
    at = [
        {
            "name": each.name,
            "bind": [address for _, address in each.bind],
            "handler": " ".join(one.source.command) or one.source.name,
            "style": known.style,
            "lifespan": known.lifespan or None,
            "tls": each.settings.tls if files is not None else "off",
            "certificates": [] if files is None else files.described,
        }
        for each, one, known, files in zip(served, asked, facts, loaded, strict=True)
    ]
    addresses = [*(text for each in served for _, text in each.bind), *settings.admin, *settings.agent_check]
    first = {key: at[0][key] for key in ("handler", "style", "lifespan", "bind", "certificates")}
    more = {"model": model.name, "why": why, "workers": settings.effective_workers(model.name, processors().usable)}
    return {**first, **more, "listeners": at, "taken": taken_now(addresses)}


def check_beside(settings: Settings) -> None:
    """What stands beside the listeners: control socket, admin process, bus, log. Raises PronghornError."""
    from pronghorn.control import admin_process
    from pronghorn.control.server import AUTO, OFF, group_number
    from pronghorn.supervisor import limits_side
    from pronghorn.system import log_config

    group_number(settings.control_group)
    admin_process.check(settings)
    check_broker(settings)
    limits_side.check(settings)
    for name in ("log_file", "pid_file", "access_log"):
        refuse_no_place(name, getattr(settings, name))
    if settings.control_socket not in (AUTO, OFF):
        refuse_no_place("control_socket", settings.control_socket)
    if settings.log_config:
        log_config.read(settings.log_config)


def check_broker(settings: Settings) -> None:
    """Raises BadSetting and MissingExtra for a broker that can never be reached: here, since the supervisor imports no
    package that speaks to one. Nothing is connected."""
    from pronghorn.supervisor.bus_side import carrier_of

    if url := carrier_of(settings):
        check_broker_url(url, settings.bus)


def check_broker_url(url: str, said: str) -> None:
    """Raises BadSetting for a URL that the broker's own package does not take; `said` is what stands in the setting."""
    from pronghorn.bus.carriers import carrier_of
    from pronghorn.bus.errors import BadBusMessage
    from pronghorn.bus.far import Far, Nobody

    try:
        Far(lambda host: carrier_of(url, host), Nobody())
    except BadBusMessage as error:
        what = f"--bus cannot be {hidden(said)!r}."
        raise BadSetting(what, " ".join(filter(None, (error.what, error.why))), error.hint) from None


def taken_now(addresses: Iterable[str]) -> list[dict[str, str]]:
    """Those addresses where a process listens at this moment, and which one: the server itself, perhaps, beside which
    this is run. No bind is tried."""
    from pronghorn.listening import why, why_words
    from pronghorn.listening.addresses import parse_bind

    found: list[dict[str, str]] = []
    for text in addresses:
        bind = parse_bind(text)
        looked = why.examine(bind, why.Asked(tried=False)) if not bind.fd else []
        if looked and why.decisive(looked).verdict is why.Verdict.TAKEN:
            words = why_words.told(looked)
            found.append({"bind": text, "what": words.what, "why": " ".join(words.why[:1])})
    return found


def looked_at(asked: list[Asked], settings: Settings) -> list[HandlerFacts]:
    """What is known of the handlers, after their import where they are the user's code."""
    from pronghorn.handlers.loading import load_all, takes_probe
    from pronghorn.system import env_file
    from pronghorn.system.preload import preload
    from pronghorn.worker_process import probe

    preload(settings, [each.source for each in asked])
    variables = env_file.read(settings)
    if takes_probe(asked):
        return [*probe.ask(asked, settings, environment=variables)]
    return [each.facts for each in load_all(asked)]


def refuse_no_place(name: str, path: str) -> None:
    """Raises BadSetting for a file whose folder does not exist, or that is a folder itself."""
    folder, flag = os.path.dirname(os.path.abspath(path)), f"--{name.replace('_', '-')}"
    if path and os.path.isdir(path):
        raise BadSetting(f"{flag} is {path!r}.", "That is a folder.", "Name a file in it.")
    if path and not os.path.isdir(folder):
        raise BadSetting(f"{flag} is {path!r}.", f"There is no folder {folder}.", "Make it, or name another file.")


def sentence(found: dict[str, Any]) -> str:
    """What `examined` found, for a person: a line, and where there are several listeners one for each."""
    workers = f"{found['workers']} worker{'s' if found['workers'] > 1 else ''}"
    under = f"under {found['model']} ({found['why']}): {workers}"
    first, *others = found["listeners"]
    if not others and not first["name"]:
        said = f"Would serve {_handler(first)} {under}, at {_places(first)}"
    else:
        lines = [f"{each['name'] or 'unnamed'}: {_handler(each)}, at {_places(each)}" for each in found["listeners"]]
        said = "\n  ".join([f"Would serve {under}", *lines])
    return "\n".join([said, *(f"At this moment {each['what']} {each['why']}" for each in found["taken"])])


def _handler(listener: dict[str, Any]) -> str:
    life = listener["lifespan"]
    lifespan = f", with {'an async' if life == 'async' else 'a'} lifespan" if life else ""
    return f"{listener['handler']} ({listener['style']} style{lifespan})"


def _places(listener: dict[str, Any]) -> str:
    names = dict.fromkeys(name for each in listener["certificates"] for name in each.names)
    tls = f", with TLS for {', '.join(names) or 'no name'}" if listener["certificates"] else ""
    return ", ".join(listener["bind"]) + tls + (" after STARTTLS" if listener["tls"] == "starttls" else "")
