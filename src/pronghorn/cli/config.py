"""`pronghorn config`: the value of every setting that serve would run with, and where it comes from."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import msgspec
import rich_click as click

from pronghorn import settings
from pronghorn.cli.layers import print_json, takes_json, takes_layers
from pronghorn.settings import Settings
from pronghorn.settings.broker_url import EXTRAS, parse, without_secret
from pronghorn.settings.bus import broker_of
from pronghorn.settings.layers import DEFAULT, Layers, Settled
from pronghorn.settings.listeners import BIND, HANDLER, LISTENERS, NAME, TABLE
from pronghorn.settings.services import Service, services
from pronghorn.settings.sockets import UNASKED


@takes_layers("config")
@takes_json
@click.option("--toml", "as_toml", is_flag=True, help="Only what is set, as a settings file (pronghorn.toml) holds it.")
def command(layers: Layers, as_json: bool, as_toml: bool) -> None:
    """Show each setting that serve would run with, and where it comes from; binds nothing, and imports no handler."""
    settled = layers.settle()
    check_bus(settled.settings)
    if as_toml:
        click.echo(toml(settled), nl=False)
    elif as_json:
        print_json(rows(settled))
    else:
        show(settled, layers.file)


def check_bus(settings: Settings) -> None:
    """Raises BadSetting for the URL of a broker with an option that there is not, where the broker's package can say
    so. Nothing is connected, and no file with a password is read."""
    url = broker_of(settings.bus)
    if url and find_spec(EXTRAS[parse(url).carrier]) is not None:
        from pronghorn.cli.check import check_broker_url

        check_broker_url(url, url)


def handler_of(settled: Settled) -> str:
    """The handler as it was named, or the program's command."""
    return " ".join(settled.source.command) or settled.source.name


def rows(settled: Settled) -> dict[str, dict[str, Any]]:
    """Value and origin of the handler and of each setting."""
    values: dict[str, Any] = {HANDLER: handler_of(settled)}
    values |= {each.name: each.public(getattr(settled.settings, each.name)) for each in settings.fields()}
    values[LISTENERS] = settled.settings.listeners
    found = {name: {"value": values[name], "origin": settled.origins[name]} for name in settled.origins}
    origin = settled.origins.get(LISTENERS, "--bind")
    return found | ({LISTENERS: {"value": listeners(settled), "origin": origin}} if named(settled) else {})


def named(settled: Settled) -> list[Service]:
    """What is served with settings of its own."""
    return [each for each in services(settled.settings) if each.own]


def listeners(settled: Settled) -> list[dict[str, Any]]:
    """Of each listener with settings of its own: its name and addresses, its handler, and what differs from the
    server's settings."""
    whole, found = settled.settings, []
    for each in named(settled):
        source = each.source if each.source is not None else settled.source
        own = {
            field.name: value
            for field in settings.fields()
            if field.own and (value := getattr(each.settings, field.name)) != getattr(whole, field.name)
        }
        handler = " ".join(source.command) or source.name
        found.append(
            {NAME: each.name or each.bind[0][1], BIND: [text for _, text in each.bind], HANDLER: handler, **own}
        )
    return found


def toml(settled: Settled) -> str:
    """What is not a default, as the text of a settings file that gives the same settings."""
    lines = []
    if settled.origins[HANDLER] != DEFAULT:
        command = settled.source.command
        lines.append(f"exec = {_toml_value(command)}" if command else f"handler = {_toml_value(settled.source.name)}")
    for field in settings.fields():
        if settled.origins[field.name] != DEFAULT:
            value = getattr(settled.settings, field.name)
            shown = field.shown(value) if field.unit in ("time", "size") else value
            if field.hides(value):
                shown = without_secret(value)
                lines.append(f"# {field.variable} gives a password too: see --{field.name}-password-file")
            lines.append(f"{field.name.replace('_', '-')} = {_toml_value(shown)}")
    for table in settled.settings.listeners:
        lines += ["", f"[[{TABLE}]]"]
        for name, value in table.items():
            lines.append(
                f"{name.replace('_', '-')} = {_toml_value(tuple(value) if isinstance(value, list) else value)}"
            )
    return "".join(f"{line}\n" for line in lines)


def _plain(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _toml_value(value: Any) -> str:
    """One value as TOML writes it: JSON's strings, numbers, truth and lists are TOML's too. Only DEL, which JSON leaves
    as it is, must be escaped (TOML 1.0, String)."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else str(value)


def show(settled: Settled, file: str) -> None:
    """The table on standard output; what was set stands out."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Setting", no_wrap=True)
    table.add_column("Value", overflow="fold")
    table.add_column("Comes from", overflow="fold")
    shown = {HANDLER: handler_of(settled)}
    shown |= {each.name: each.shown(getattr(settled.settings, each.name)) for each in settings.fields()}
    if settled.settings.listeners and settled.settings.bind is UNASKED:
        shown["bind"] = ""  # the default counts only where there is no other address
    for name, origin in settled.origins.items():
        if name == LISTENERS:
            continue
        table.add_row(name, shown[name], origin, style="dim" if origin == DEFAULT else "bold")
    known = {each.name: each for each in settings.fields()}
    for each in listeners(settled):
        own = [
            f"{name} {known[name].shown(value) if name in known and name != BIND else _plain(value)}"
            for name, value in each.items()
            if name != NAME and value not in ("", ())
        ]
        origin = settled.origins.get(LISTENERS, "--bind")
        table.add_row(*map(escape, (f"listener {each[NAME]}", "\n".join(own), origin)), style="bold")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\nSettings file: {file or 'none'}", soft_wrap=True)
